"""The process that starts decoders for one worker: forked before the worker has threads, so that it may fork.

A decoder is a copy of it, ready in milliseconds with every codec imported and its memory shared. It asks
nobody, reads no image, and ends with its worker.
"""

import gc
import os
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

from data_schemas.errors import HilumError
from pipeline.imaging.workers import WorkerLimits
from services.inference.decoders import ready_for_dicom, rehearse, serve_decoder

_START, _END = b"S", b"E"
_NUMBER = struct.Struct("q")
_NO_CODE = 1000


class Nursery:
    """Forks decoders. Make it before this process has a second thread.

    Parameters
    ----------
    limits
        Time and memory of one file.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            _live(theirs, limits)
        theirs.close()

    def start(self, channel: socket.socket, memory: int) -> int:
        """Start a decoder at the other end of ``channel``; return its process id."""
        with self._lock:
            return self._told([_START], [channel.fileno(), memory])

    def end(self, pid: int) -> int | None:
        """Kill and reap a decoder; return its exit code (minus the signal's number)."""
        with self._lock:
            code = self._told([_END, _NUMBER.pack(pid)], [])
        return None if code == _NO_CODE else code

    def close(self) -> None:
        """End the process and with it all decoders."""
        self._ours.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _told(self, words: list[bytes], files: list[int]) -> int:
        try:
            socket.send_fds(self._ours, words, files)
            answer = self._ours.recv(_NUMBER.size)
        except OSError:
            answer = b""
        if not answer:
            # without it no decoder can be replaced: a new worker, which has a new one, takes over
            os.kill(os.getpid(), signal.SIGTERM)
            raise HilumError("the process that starts decoders has ended")
        return int(_NUMBER.unpack(answer)[0])


def _live(channel: socket.socket, limits: WorkerLimits) -> None:
    # the worker hears the signals; this process and the decoders end when it closes its sockets
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # the worker lets the collector of garbage rest while it imports
    gc.enable()
    # decoders write to the terminal, sometimes pieces of what they read
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _close_all_but(channel.fileno())
    alive: set[int] = set()
    imported = False
    try:
        # while the worker loads its model
        rehearse()
        while True:
            if alive and not imported:
                # those that replace others have it from here
                ready_for_dicom(channel)
                imported = "pipeline.imaging.dicom_read" in sys.modules
            message, files, _, _ = socket.recv_fds(channel, 64, 2)
            if not message:
                break
            if message[:1] == _START:
                answer = _born(files[0], files[1], limits)
                alive.add(answer)
            else:
                pid = _NUMBER.unpack(message[1:])[0]
                answer = _ended(pid)
                alive.discard(pid)
            channel.send(_NUMBER.pack(answer))
    finally:
        for pid in alive:  # one may hang in a file
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(0)


def _close_all_but(*kept: int) -> None:
    # above all the listening socket: a decoder that hangs must not keep the port
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not files
        if int(name) > 2 and int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


def _born(end: int, memory: int, limits: WorkerLimits) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _close_all_but(end, memory)
            serve_decoder(socket.socket(fileno=end), memory, limits)
        finally:
            os._exit(0)
    os.close(end)
    os.close(memory)
    return pid


def _ended(pid: int) -> int:
    # its end of the socket closes a moment before it can be reaped, and then it keeps its own code
    with suppress(ProcessLookupError, ChildProcessError):
        for _ in range(20):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return _NO_CODE
