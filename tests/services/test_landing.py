"""Large bodies land in memory files: whole, in order, never in one another, and the connection goes on."""

import asyncio
import hashlib
import json
import mmap
import os
import socket
import ssl
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn

from services.inference import landing
from services.inference.protocol import patient
from tests.services.test_access import certificate

LARGE = np.random.default_rng(3).bytes(5_000_000)
SECONDS = 30


class Echo:
    """Answers the digest of a body, and whether it landed."""

    def __init__(self, patience=SECONDS):
        self.files = landing.MemoryFiles()
        self.patience = patience
        self.left = threading.Event()
        self.held = []

    async def __call__(self, scope, receive, send):
        offered = landing.landing_of(scope)
        landed = None
        try:
            if offered is not None:
                landed = self.files.take(offered.length)
                async with asyncio.timeout(self.patience):
                    await offered.fill(landed.view)
                body = bytes(landed.view)
                self.held.append(landed)
            else:
                body, more = b"", True
                while more:
                    message = await receive()
                    body += message["body"]
                    more = message["more_body"]
            told = {"sha256": hashlib.sha256(body).hexdigest(), "landed": offered is not None}
            status = 200
        except TimeoutError:
            told, status = {"arrived": offered.arrived}, 408
        except ConnectionError:
            self.left.set()
            return
        text = json.dumps(told).encode()
        headers = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@pytest.fixture(params=["uvloop", "asyncio", "uvloop over TLS", "asyncio over TLS"])
def serving(request, tmp_path):
    """Return a function that serves an application and returns a function that connects to it."""
    loop, _, over = request.param.partition(" ")
    running, lines = [], []

    def serve(app):
        listening = socket.create_server(("127.0.0.1", 0))
        files = certificate(tmp_path) if over else (None, None)
        config = uvicorn.Config(
            app,
            log_config=None,
            lifespan="off",
            loop=loop,
            http=patient(10),
            ssl_certfile=files[0],
            ssl_keyfile=files[1],
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread))

        def connect():
            line = socket.create_connection(listening.getsockname(), timeout=SECONDS)
            if over:
                context = ssl.create_default_context(cafile=files[0])
                line = context.wrap_socket(line, server_hostname="localhost")
            lines.append(line)
            return SimpleNamespace(line=line, answers=line.makefile("rb"))

        return connect

    yield serve
    for line in lines:
        line.close()
    for server, thread in running:
        server.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
PIECE = b"a" * 4096


class Wire:
    """A connection's transport without a network: what was written, and how it ended."""

    def __init__(self):
        self.written, self.ended = b"", ""
        self.close = lambda: setattr(self, "ended", self.ended or "closed")
        self.abort = lambda: setattr(self, "ended", "cut")
        self.is_closing = lambda: bool(self.ended)
        self.pause_reading = self.resume_reading = lambda: None

    def get_extra_info(self, _name, default=None):
        return default

    def write(self, data):
        self.written += data


def after(*fed):
    """Return how a connection stands after these bytes, in pieces as they are, and how many were taken."""

    async def run():
        config = uvicorn.Config(Echo(), log_config=None, lifespan="off")
        config.load()
        wire, taken = Wire(), 0
        protocol = patient(10)(config, uvicorn.server.ServerState(), {})
        protocol.connection_made(wire)
        for piece in fed:
            if wire.ended:
                break
            protocol.data_received(piece)
            taken += len(piece)
            await asyncio.sleep(0)
        protocol.connection_lost(ConnectionError())
        return wire, taken

    return asyncio.run(run())


def test_a_head_without_end_is_refused():
    for begun in (HEAD + b"x: ", b"POST /"):
        wire, taken = after(begun, *[PIECE] * 1000)
        assert (wire.written[:12], wire.ended) == (b"HTTP/1.1 431", "closed")
        assert taken < 100_000
    for size in (300 * [b"a: b\r\n"], 20 * [b"a: " + PIECE + b"\r\n"]):
        wire, _ = after(HEAD + b"".join(size) + b"\r\n")
        assert (wire.written[:12], wire.ended) == (b"HTTP/1.1 431", "closed")


def test_nor_may_there_be_no_end_behind_a_body():
    wire, taken = after(CHUNKED + b"0\r\nx: ", *[PIECE] * 1000)
    assert (wire.written, wire.ended) == (b"", "cut")
    assert taken < 100_000


def test_a_body_is_no_part_of_a_head():
    long = HEAD + b"x: " + PIECE + b"\r\ncontent-length: 150000\r\n\r\n" + bytes(100_000)
    wire, _ = after(long, bytes(50_000), *[HEAD + b"\r\n"] * 9000)
    assert wire.ended == ""
    assert b" 431 " not in wire.written
    wire, _ = after(CHUNKED, *[b"1\r\nx\r\n"] * 30_000)
    assert (wire.written, wire.ended) == (b"", "")


def post(body, *headers, length=None):
    lines = [b"POST / HTTP/1.1", b"host: x", *headers]
    lines += [b"content-length: %d" % (len(body) if length is None else length)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answer(client):
    """Return status, headers and the JSON of the next answer."""
    status = int(client.answers.readline().split()[1])
    headers = {}
    while (line := client.answers.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    text = client.answers.read(int(headers.get(b"content-length", 0)))
    return status, headers, json.loads(text) if text else None


def digest(body):
    return hashlib.sha256(body).hexdigest()


def test_bodies_of_all_sizes_arrive_on_one_connection(serving):
    client = serving(Echo())()
    edge = landing.FROM_BYTES
    for size in (5, edge - 1, edge, 5_000_000, 0, edge + 1, 3_000_000, 20):
        client.line.sendall(post(LARGE[:size]))
        told = answer(client)[2]
        assert told == {"sha256": digest(LARGE[:size]), "landed": size >= edge}


def test_requests_sent_without_waiting_are_answered_in_order(serving):
    client = serving(Echo())()
    sizes = (1_000_000, 3, 300_000, 2_000_000, 7)
    sent = b"".join(post(LARGE[size : 2 * size]) for size in sizes)
    threading.Thread(target=client.line.sendall, args=(sent,)).start()
    for size in sizes:
        assert answer(client)[2]["sha256"] == digest(LARGE[size : 2 * size])


def test_a_body_in_drops_lands_whole(serving):
    client = serving(Echo())()
    sent = post(LARGE[:400_000])
    for start in range(0, len(sent), 50_001):
        client.line.sendall(sent[start : start + 50_001])
    assert answer(client)[2] == {"sha256": digest(LARGE[:400_000]), "landed": True}


def test_a_client_that_waits_to_be_asked_is_asked(serving):
    client = serving(Echo())()
    client.line.sendall(post(b"", b"expect: 100-continue", length=1_000_000))
    assert answer(client)[0] == 100
    client.line.sendall(LARGE[:1_000_000])
    assert answer(client)[2]["sha256"] == digest(LARGE[:1_000_000])


def test_a_body_in_chunks_does_not_land(serving):
    client = serving(Echo())()
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    client.line.sendall(head + b"%x\r\n" % 500_000 + LARGE[:500_000] + b"\r\n0\r\n\r\n")
    assert answer(client)[2] == {"sha256": digest(LARGE[:500_000]), "landed": False}


@pytest.mark.parametrize("sent", [0, 100_000, 900_000])
def test_a_client_that_leaves_is_noticed(serving, sent):
    app = Echo()
    client = serving(app)()
    client.line.sendall(post(LARGE[:sent], length=1_000_000))
    client.answers.close()
    client.line.close()
    assert app.left.wait(SECONDS)


def test_a_body_that_takes_too_long_is_the_connections_last(serving):
    app = Echo(patience=3)
    client = serving(app)()
    client.line.sendall(post(LARGE[:700_000], length=1_000_000))
    status, headers, told = answer(client)
    assert (status, headers[b"connection"]) == (408, b"close")
    # all of it, unless the machine is too busy to read that much so soon
    assert 0 < told["arrived"] <= 700_000
    assert client.answers.read() == b""


def test_bodies_side_by_side_never_share_memory(serving):
    app = Echo()
    connect = serving(app)
    bodies = [LARGE[start : start + 1_500_000] for start in range(0, 3_000_000, 500_000)]
    found = [None] * len(bodies)

    def ask(place):
        client = connect()
        for _ in range(3):
            client.line.sendall(post(bodies[place]))
            found[place] = answer(client)[2]["sha256"]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == [digest(body) for body in bodies]
    # nobody has let go of one: each has a file of its own, and still its own bytes
    assert len({landed.file for landed in app.held}) == 3 * len(bodies)
    assert sorted(digest(landed.view) for landed in app.held) == sorted(3 * found)


def test_a_memory_file_is_used_again_when_nobody_holds_it():
    files = landing.MemoryFiles(kept_bytes=3 * 2**20)
    first, second = files.take(1_000_000), files.take(1_000_000)
    assert first.file != second.file
    used = first.file
    del first
    third = files.take(1_048_576)
    assert third.file == used
    assert files.take(1_048_577).file not in (used, second.file)


def test_a_connection_keeps_nothing_of_a_body_that_has_gone(serving):
    app = Echo()
    app.files = landing.MemoryFiles(0)
    client = serving(app)()
    client.line.sendall(post(LARGE))
    assert answer(client)[0] == 200
    memory = weakref.ref(app.held.pop().view.obj)
    end = time.monotonic() + SECONDS
    while memory() is not None:
        assert time.monotonic() < end, "it is still held"
        time.sleep(0.01)


def test_memory_files_that_are_not_kept_are_given_back():
    files = landing.MemoryFiles(kept_bytes=2**20)
    held = [files.take(2**20) for _ in range(3)]
    held[0].view[:] = bytes(2**20)
    held.clear()
    assert len(files._idle) == 1


def test_who_decodes_a_body_can_neither_change_nor_cut_it():
    landed = landing.MemoryFiles().take(1000)
    landed.view[:] = b"x" * 1000
    for harm in (
        lambda: os.pwrite(landed.file, b"y", 0),
        lambda: os.ftruncate(landed.file, 0),
        lambda: mmap.mmap(landed.file, 1000),
    ):
        with pytest.raises(PermissionError):
            harm()
    assert os.pread(landed.file, 1000, 0) == b"x" * 1000
