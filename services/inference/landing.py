"""A large body goes from the socket straight into memory set aside for it, which a decoder reads, too.

An HTTP parser hands a body on as copies of pieces: received, parsed, gathered, taken and put where the
decoder finds it, eight megabytes are copied five times, which costs as much as decoding them. Here the
connection's protocol steps aside until the body is whole, and the kernel's copy is the only one.
"""

import asyncio
import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from contextlib import suppress

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

FROM_BYTES = 256 * 1024
"""Smaller bodies arrive in one or two pieces: stepping aside would cost more than the copies."""

KEPT_BYTES = 64 * 2**20
"""Memory files of so many bytes together wait for the next bodies: fresh pages cost as much as a copy."""

_EXTENSION = "hilum.landing"
_SCRATCH = 64 * 1024
_ROUND = 2**20
_NOWHERE = memoryview(b"")
_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h: only mappings that are there already may write (5.1)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Landed:
    """A body in a memory file. When nobody holds it any more, its file is used for another one."""

    __slots__ = ("__weakref__", "file", "view")

    def __init__(self, file: int, view: memoryview) -> None:
        self.file = file
        """The memory file's descriptor; the body begins at its first byte."""
        self.view = view
        """The body's bytes; only this process can write them."""

    def __len__(self) -> int:
        return len(self.view)


class MemoryFiles:
    """Memory files for bodies, kept for the next one."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._idle: list[_MemoryFile] = []

    def take(self, length: int) -> Landed:
        """Return a place for a body of so many bytes; it is free again when nobody holds it."""
        found = next((one for one in reversed(self._idle) if one.size >= length), None)
        if found is None:
            found = _MemoryFile(-(-length // _ROUND) * _ROUND)
        else:
            self._idle.remove(found)
        landed = Landed(found.file, memoryview(found.map)[:length])
        # its last holder may be a thread that decodes for a client who has gone: only then it is free
        weakref.finalize(landed, self._give_back, found)
        return landed

    def _give_back(self, one: "_MemoryFile") -> None:
        if one.size + sum(other.size for other in self._idle) <= self._kept_bytes:
            self._idle.append(one)
        else:
            one.close()


class _MemoryFile:
    def __init__(self, size: int) -> None:
        self.size = size
        self.file = os.memfd_create("hilum-body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, size)
        self.map = mmap.mmap(self.file, size)
        # a decoder that a file has taken over can neither cut it short under this process, which
        # would die of it, nor change the body that comes next
        with suppress(OSError):  # kernels before 5.1, and sandboxes that know the older seals only
            fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
        fcntl.fcntl(self.file, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        os.close(self.file)
        with suppress(BufferError):  # somebody still looks at it: it goes with the last look
            self.map.close()


class Landing(asyncio.BufferedProtocol):
    """Takes the rest of one request's body, in the place of its connection's protocol.

    Parameters
    ----------
    connection
        The protocol that read the request's head.
    length
        Bytes of the body, as its Content-Length says.
    """

    def __init__(self, connection: HttpToolsProtocol, length: int) -> None:
        self.length = length
        self._connection = connection
        self._cycle = connection.cycle
        self._rest = _NOWHERE
        self._left = length
        self._whole: asyncio.Future[None] | None = None

    @property
    def arrived(self) -> int:
        """Bytes of the body that lie in its place."""
        return self.length - self._left

    async def fill(self, place: memoryview) -> None:
        """Fill ``place``, as long as the body. To be called before anything of the body was received.

        Raises
        ------
        ConnectionError
            If the client leaves before the body is whole.
        """
        cycle, transport = self._cycle, self._connection.transport
        first = len(cycle.body)
        place[:first] = cycle.body
        cycle.body = bytearray()
        self._left -= first
        if cycle.waiting_for_100_continue and not transport.is_closing():
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        if cycle.disconnected:
            raise ConnectionError
        # from here on the only message for the application is that the client leaves
        cycle.message_event.clear()
        if not self._left:
            return
        self._rest = place[first:]
        self._whole = asyncio.get_running_loop().create_future()
        self._read_by(self)
        try:
            await self._whole
        except asyncio.CancelledError:
            # nobody knows how much of the body is still to come: it is the connection's last request
            cycle.keep_alive = False
            raise
        finally:
            # the connection knows this landing until its next request; the body ends with its own
            self._whole, self._rest = None, _NOWHERE

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the next bytes go: never more than the body's own, and nowhere if it is given up."""
        return memoryview(bytearray(_SCRATCH)) if self._whole is None else self._rest

    def buffer_updated(self, nbytes: int) -> None:
        """Go on behind the bytes that came; after the last one the connection's protocol is back."""
        if self._whole is None:
            return
        self._rest = self._rest[nbytes:]
        self._left -= nbytes
        if self._left:
            return
        # the parser has seen the head alone and would take the next head for this one's body
        self._connection.parser = new_parser(self._connection)
        self._cycle.more_body = False
        self._read_by(self._connection)
        if not self._whole.done():
            self._whole.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection and whoever waits that the client has left."""
        self._connection.connection_lost(exc)
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(ConnectionError())

    def pause_writing(self) -> None:
        """As the connection does."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """As the connection does."""
        self._connection.resume_writing()

    def _read_by(self, protocol: asyncio.BaseProtocol) -> None:
        # a transport chooses how it reads when it starts to
        flow = self._connection.flow
        flow.pause_reading()
        self._connection.transport.set_protocol(protocol)
        flow.resume_reading()


def offer(connection: HttpToolsProtocol) -> None:
    """Offer the application a landing for the request whose head is complete, if its body is worth it."""
    length = _length_of(connection.headers)
    if length >= FROM_BYTES:
        connection.scope["extensions"] = {_EXTENSION: {"landing": Landing(connection, length)}}


def landing_of(scope: Scope) -> Landing | None:
    """Return the landing that was offered for a request's body."""
    offered = (scope.get("extensions") or {}).get(_EXTENSION)
    return None if offered is None else offered["landing"]


def new_parser(connection: HttpToolsProtocol) -> httptools.HttpRequestParser:
    """Return a parser in the state in which a connection begins."""
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _length_of(headers: Sequence[tuple[bytes, bytes]]) -> int:
    # a body in chunks has no length, and the parser refuses a request that has both
    told = {
        name: value for name, value in headers if name in (b"content-length", b"transfer-encoding")
    }
    length = told.get(b"content-length", b"")
    return int(length) if len(told) == 1 and length.isdigit() else 0
