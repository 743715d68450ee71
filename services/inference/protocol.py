"""HTTP/1.1 with bounds for a request's head: a client that sends it drop by drop, or without end, is cut off.

The HTTP server itself waits for ever for the rest of a request's head; its keep-alive time ends with the
first byte of the next request. It also keeps whatever comes as one. (Bodies have bounds of their own, see
``body.py``.)
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.inference.landing import offer

MOST_HEAD_BYTES = 64 * 1024
"""Of address and headers together; also between two pieces of a body, and behind the last one."""

MOST_HEADERS = 256
_MOMENT_S = 0.5
_TOO_LARGE = b"The head of the request is too large."
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)


class PatientProtocol(HttpToolsProtocol):
    """One connection. ``header_seconds`` is set on the subclass that :func:`patient` makes."""

    header_seconds = 10.0

    def __init__(self, config: Config, *words: Any, **named: Any) -> None:
        super().__init__(config, *words, **named)
        self._late: asyncio.TimerHandle | None = None
        self._fed = 0
        self._went_on = False
        self._too_large = False

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; stop waiting when they complete a head."""
        if self._late is None and not self._at_work():
            self._wait()
        self._fed += len(data)
        self._went_on = False
        super().data_received(data)
        if self._went_on:
            self._fed = 0
        elif self._fed > MOST_HEAD_BYTES:
            self._refuse_head()
        if self._at_work():
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """Hand the request to the application, with an offer to land its body."""
        if len(self.headers) > MOST_HEADERS or (
            # what was fed holds the head: most heads need no count of their own
            self._fed > MOST_HEAD_BYTES and self._head_bytes() > MOST_HEAD_BYTES
        ):
            self._too_large = True
            raise ValueError  # the parser stops at whatever is raised here
        super().on_headers_complete()
        self._went_on = True
        offer(self)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body in."""
        self._went_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request: what comes next is another one's head."""
        self._went_on = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser couldn't take, or was told not to."""
        if self._too_large:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        if self._at_work():
            # another request's answer is under way on this connection
            self.transport.abort()
            return
        self.transport.write(_REFUSAL)
        self.transport.close()

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
