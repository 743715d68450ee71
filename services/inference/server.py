"""Serves on an open port until told to stop, and lets requests under way end."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from services.inference.journal import Journal, adopt_logs
from services.inference.protocol import patient
from services.inference.settings import ServiceSettings
from services.inference.tls import server_options

LOOK_EVERY_S = 0.5
"""How soon SIGTERM is heard at the latest."""


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
    with ending_with(server):
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
def ending_with(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM and SIGINT end ``server`` also before it hears signals itself, and never this process.

    The HTTP server raises the signal again when it has drained; that must not kill the process.
    """

    def hear(*_: object) -> None:
        server.should_exit = True

    before = {heard: signal.signal(heard, hear) for heard in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for heard, handler in before.items():
            signal.signal(heard, handler)
