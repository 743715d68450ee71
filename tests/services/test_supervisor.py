"""The parent of the serving processes: who is replaced at once, and who after a pause."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from services.inference.journal import Journal
from services.inference.supervisor import Supervisor


def pauses(folder, deaths, *, ready):
    """Let a child die young so often; return after which pauses it was replaced."""
    lives, log = folder / "lives", folder / "log"

    def life(_lifeline, say_ready):
        with lives.open("a") as stream:
            stream.write("x")
        if ready:
            say_ready()
        os.kill(os.getpid(), signal.SIGKILL)

    parent = os.fork()
    if parent == 0:
        try:
            with log.open("w") as stream:
                Supervisor({"worker": life}, 1.0, Journal(stream)).run()
        finally:
            os._exit(0)
    try:
        end = time.monotonic() + 120
        while not log.exists() or log.read_text().count("\n") < deaths:
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        os.kill(parent, signal.SIGTERM)
        gone = time.monotonic() + 30
        while os.waitpid(parent, os.WNOHANG)[0] == 0:
            if time.monotonic() > gone:
                os.kill(parent, signal.SIGKILL)
            time.sleep(0.02)
    lines = [json.loads(line) for line in log.read_text().splitlines()[:deaths]]
    assert all((line["event"], line["ended"]) == ("died", "SIGKILL") for line in lines)
    return [line["again_in_seconds"] for line in lines]


def test_what_fails_at_its_start_is_given_time(tmp_path):
    assert pauses(tmp_path, 4, ready=False) == [0, 0, 1, 2]


@pytest.mark.parametrize("deaths", [8])
def test_what_was_ready_is_replaced_at_once_however_often(tmp_path, deaths):
    assert pauses(tmp_path, deaths, ready=True) == [0] * deaths


CROWDED = """
import errno, os, signal
from services.inference import supervisor
from services.inference.journal import Journal

supervisor.FORK_AGAIN_S = 0.01
fork, left = os.fork, [3]

def crowded():
    left[0] -= 1
    if left[0] >= 0:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()

def life(_lifeline, ready):
    ready()
    os.kill(os.getppid(), signal.SIGTERM)

os.fork = crowded
print(supervisor.Supervisor({"worker": life}, 60.0, Journal()).run())
"""


def test_a_fork_that_fails_is_tried_again():
    ran = subprocess.run(
        [sys.executable, "-c", CROWDED], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "0\n"), ran.stderr
    told = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["event"], line["reason"]) for line in told] == [("not_started", "EAGAIN")] * 3


DRAINING = """
import pathlib, signal, socket, sys, time
from services.inference.journal import Journal
from services.inference.supervisor import Supervisor

listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)

def life(_lifeline, ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listening.close()
    print("ready", flush=True)
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.02)

print(Supervisor({"worker": life}, 60.0, Journal(), ending=listening.close).run())
"""


def test_the_port_closes_before_the_children_have_ended(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", DRAINING, str(tmp_path / "go")], stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            place = ("127.0.0.1", int(running.stdout.readline()))
            assert running.stdout.readline() == "ready\n"
            socket.create_connection(place, timeout=10).close()
            running.send_signal(signal.SIGTERM)
            end = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(place, timeout=10).close()
                except OSError:
                    break
                assert time.monotonic() < end, "the port is still open"
                time.sleep(0.02)
            assert running.poll() is None
            (tmp_path / "go").write_text("")
            assert running.communicate(timeout=60)[0] == "0\n"
        finally:
            running.kill()


TRYING = """
import pathlib, time
from services.inference import following

def tried(*_):
    print("trying", flush=True)
    time.sleep(50)

following._tried = tried
following.tried_apart(pathlib.Path("."))
"""


def test_a_trial_of_a_package_ends_with_its_parent():
    with subprocess.Popen(
        [sys.executable, "-c", TRYING], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "trying\n"
        running.kill()
        # what is said ends when nobody is left who could say more
        assert running.communicate(timeout=30)[0] == ""


INTERRUPTED = """
import os, signal
from services.inference.journal import Journal
from services.inference.supervisor import Supervisor

def life(_lifeline, ready):
    ready()
    for pid in (os.getpid(), os.getppid()):
        os.kill(pid, signal.SIGINT)
    signal.pause()

print(Supervisor({"worker": life}, 60.0, Journal()).run())
"""


def test_an_interrupt_at_the_terminal_is_a_quiet_end():
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n", "")


EARLY = """
import signal, sys, uvicorn
from services.inference.server import ending_with

server = uvicorn.Server(uvicorn.Config("none:app"))
with ending_with(server):
    signal.raise_signal(signal.Signals[sys.argv[1]])
    print(server.should_exit)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_worker_told_to_end_before_it_listens_to_signals_ends(name):
    # in a process of its own: where the signal is lost on the way, it ends that, not the test's
    ran = subprocess.run(
        [sys.executable, "-c", EARLY, name], check=False, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr
