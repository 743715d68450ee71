"""Reads the bytes of one image from a request: counted while they arrive, in memory, never on disk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from data_schemas.errors import BusyError
from services.inference.figures import Figures
from services.inference.problems import Refusal
from services.inference.settings import ServiceSettings

MULTIPART_OVERHEAD = 64 * 1024
"""Bytes that a multipart frame may add to the file's own."""

MOST_PIECES = 512
"""A file in more pieces is put together; large ones arrive in pieces of 100 KB or so."""

Pieces = tuple[bytes, ...]
"""A file's bytes in the pieces in which they arrived: putting eight megabytes together costs milliseconds."""


class Bodies:
    """The request bodies in memory, bounded one by one and together."""

    def __init__(self, settings: ServiceSettings, figures: Figures) -> None:
        self._settings = settings
        self._figures = figures
        self._held = 0

    @asynccontextmanager
    async def image(self, request: Request) -> AsyncIterator[Pieces]:
        """Yield the file's bytes of a raw or a multipart body; they count as held until left.

        Raises
        ------
        Refusal
            ``BODY_TOO_LARGE``, ``BODY_INCOMPLETE``, ``EMPTY_BODY`` or ``BAD_MULTIPART``.
        BusyError
            If all bodies together would take more memory than allowed.
        """
        kind, parameters = _content_type(request.headers.get("content-type", ""))
        multipart = kind == "multipart/form-data"
        limit = self._settings.max_body_bytes + (MULTIPART_OVERHEAD if multipart else 0)
        claimed = self._claimed(request, limit)
        self._hold(claimed)
        holding = [claimed]
        try:
            pieces = await self._received(request, limit, holding)
            if not pieces:
                raise Refusal(
                    "EMPTY_BODY",
                    "The body is empty; it must be the bytes of one image file.",
                    "curl --data-binary @FILE .../v1/scores",
                )
            if multipart:
                boundary = parameters.get("boundary", "")
                pieces = (file_of_multipart(b"".join(pieces), boundary),)
            yield pieces
        finally:
            self._hold(-holding[0])

    def _claimed(self, request: Request, limit: int) -> int:
        text = request.headers.get("content-length", "")
        claimed = int(text) if text.isascii() and text.isdigit() else 0
        if claimed > limit:
            raise self._too_large(f"The body is {claimed} bytes")
        return claimed

    async def _received(self, request: Request, limit: int, holding: list[int]) -> Pieces:
        chunks: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                more = True
                while more:
                    chunk, more = await _chunk(request)
                    length += len(chunk)
                    if length > limit:
                        raise self._too_large("The body goes on")
                    if length > holding[0]:
                        self._hold(length - holding[0])
                        holding[0] = length
                    if chunk:
                        chunks.append(chunk)
        except TimeoutError:
            raise Refusal(
                "BODY_INCOMPLETE",
                f"{length} bytes arrived in {self._settings.body_seconds:g} s, then the service"
                " stopped waiting.",
            ) from None
        return tuple(chunks) if len(chunks) <= MOST_PIECES else (b"".join(chunks),)

    def _too_large(self, what: str) -> Refusal:
        return Refusal(
            "BODY_TOO_LARGE",
            f"{what}; this service takes up to {self._settings.max_body_bytes} bytes"
            f" ({self._settings.max_body_mb} MiB).",
            "send a compressed transfer syntax, or start the service with a larger --max-body-mb",
        )

    def _hold(self, change: int) -> None:
        if change > 0 and self._held + change > self._settings.max_held_bytes:
            raise BusyError("the bodies under way take all the memory set aside for them")
        self._held += change
        self._figures.held.set(self._held)


def file_of_multipart(body: bytes, boundary: str) -> bytes:
    """Return the bytes of the only part of a ``multipart/form-data`` body (RFC 7578).

    Raises
    ------
    Refusal
        ``BAD_MULTIPART`` if it can't be parsed or holds another number of parts than one,
        ``EMPTY_BODY`` if the part is empty.
    """
    parts: list[list[bytes]] = []
    closed: list[bool] = []

    def began() -> None:
        parts.append([])

    def came(data: bytes, start: int, end: int) -> None:
        parts[-1].append(data[start:end])

    try:
        parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": began,
                "on_part_data": came,
                "on_end": lambda: closed.append(True),
            },
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, UnicodeEncodeError):
        raise Refusal(
            "BAD_MULTIPART", "The multipart body can't be parsed.", "curl -F file=@FILE"
        ) from None
    if not closed:
        raise Refusal("BAD_MULTIPART", "The multipart body ends before its closing boundary.")
    if len(parts) != 1:
        raise Refusal(
            "BAD_MULTIPART",
            f"The multipart body holds {len(parts)} parts; it must hold exactly one, the file.",
            "curl -F file=@FILE",
        )
    data = b"".join(parts[0])
    if not data:
        raise Refusal("EMPTY_BODY", "The file in the multipart body is empty.")
    return data


async def _chunk(request: Request) -> tuple[bytes, bool]:
    """Return the next piece of the body, and whether more follows."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise Refusal("BODY_INCOMPLETE", "The client left before the body was whole.")
    return message.get("body", b""), message.get("more_body", False)


def _content_type(text: str) -> tuple[str, dict[str, str]]:
    if not text[:10].lower().startswith("multipart/"):
        return "", {}
    message = Message()
    message["content-type"] = text
    parameters = message.get_params(failobj=[])
    return message.get_content_type(), {name.lower(): value for name, value in parameters[1:]}
