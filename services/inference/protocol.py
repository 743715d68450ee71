"""HTTP/1.1 with patience for headers: a client that sends them drop by drop is cut off.

The HTTP server itself waits for ever for the rest of a request's head; its keep-alive time ends with the
first byte of the next request. (Bodies have a time of their own, see ``body.py``.)
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.inference.landing import offer

_MOMENT_S = 0.5


class PatientProtocol(HttpToolsProtocol):
    """One connection. ``header_seconds`` is set on the subclass that :func:`patient` makes."""

    header_seconds = 10.0

    def __init__(self, config: Config, *words: Any, **named: Any) -> None:
        super().__init__(config, *words, **named)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; stop waiting when they complete a head."""
        if self._late is None and not self._at_work():
            self._wait()
        super().data_received(data)
        if self._at_work():
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Hand the request to the application, with an offer to land its body."""
        super().on_headers_complete()
        offer(self)

    def _at_work(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.header_seconds, self._look_again)

    def _look_again(self) -> None:
        # where this process itself was held up, what has arrived is read before anybody is cut off
        self._late = self.loop.call_later(_MOMENT_S, self._cut_off)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cut_off(self) -> None:
        self._late = None
        if not self._at_work() and not self.transport.is_closing():
            # 408 would be an answer to a request that never came (RFC 9110, 15.5.9, allows to close)
            self.transport.abort()


def patient(header_seconds: float) -> type[PatientProtocol]:
    """Return the protocol with this patience."""
    return type("Patient", (PatientProtocol,), {"header_seconds": header_seconds})
