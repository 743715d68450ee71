"""Opens the port, says where, serves until told to stop, and lets requests under way end."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from data_schemas.errors import UsageError
from services.inference.journal import Journal, adopt_logs
from services.inference.protocol import patient
from services.inference.settings import ServiceSettings
from services.inference.tls import server_options

LOOK_EVERY_S = 0.5
"""How soon SIGTERM is heard at the latest."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; from here on connections wait in it instead of failing.

    Raises
    ------
    UsageError
        If the address isn't this machine's or the port is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(f"can't listen on {host}: {error.strerror}", where="--host") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"can't listen on {host}, port {port}: {error.strerror}",
            where="--port",
            mend="give another port, or --port 0 for any free one",
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """Return the URL under which this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open_to_others(listening: socket.socket) -> bool:
    """Tell whether the socket takes connections from other machines."""
    host = str(listening.getsockname()[0])
    return not (host.startswith("127.") or host == "::1")


def serve(
    app: FastAPI, listening: socket.socket, settings: ServiceSettings, lifeline: int | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; then close the port and let requests under way end.

    ``lifeline`` is a file descriptor that ends when this process's parent does: then it ends, too.

    No request is logged by the HTTP server itself: its lines would carry addresses of clients.
    """
    adopt_logs(Journal())
    server = _CalmServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=settings.drain_seconds,
            **server_options(settings),
            http=patient(settings.header_seconds),
        )
    )
    with _surviving(signal.SIGTERM):
        if lifeline is not None:
            threading.Thread(target=_end_with, args=(lifeline, server), daemon=True).start()
        server.run(sockets=[listening])


class _CalmServer(uvicorn.Server):
    """Looks twice a second whether it shall end, not ten times.

    Each look wakes the process and costs a tenth of a millisecond or more: on a busy machine, where a
    request takes long by the clock, as much as the request's own way through the server.
    """

    async def main_loop(self) -> None:
        """Serve until told to end."""
        # at tick 0 it also renews the date that answers carry
        while not await self.on_tick(0):
            await asyncio.sleep(LOOK_EVERY_S)


def _end_with(lifeline: int, server: uvicorn.Server) -> None:
    os.read(lifeline, 1)
    server.should_exit = True


@contextmanager
def _surviving(number: signal.Signals) -> Iterator[None]:
    # the HTTP server raises the signal again when it has drained; that must not kill the process
    before = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)
