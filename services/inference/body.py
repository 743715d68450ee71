"""Reads the bytes of images from a request: counted while they arrive, in memory, never on disk."""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.requests import Request

from data_schemas.errors import BusyError
from services.inference.figures import Figures
from services.inference.landing import Landed, Landing, MemoryFiles, landing_of
from services.inference.problems import Refusal
from services.inference.settings import ServiceSettings

_PARAMETER = re.compile(r"([A-Za-z0-9_*-]+)=(\"(?:[^\"\\]|\\.)*\"|[^;]*)")
_LONGEST_HEADER = 8192

MULTIPART_OVERHEAD = 64 * 1024
"""Bytes that a multipart frame may add to the files' own."""

JSON_WEIGHT = 3
"""A body of JSON is in memory three times for a moment: as it came, parsed, and its images decoded."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a request."""

    data: bytes | Landed
    name: str = ""
    """Of its part of the form; not the file's name, which is nobody's business."""


class Bodies:
    """The request bodies in memory, bounded one by one and together."""

    def __init__(self, settings: ServiceSettings, figures: Figures) -> None:
        self._settings = settings
        self._figures = figures
        self._held = 0
        self._memory = MemoryFiles()

    @asynccontextmanager
    async def files(self, request: Request, *, form: bool = False) -> AsyncIterator[list[File]]:
        """Yield the files of a multipart body, or the one of a raw body; they are held until left.

        ``form``: only a multipart body will do.

        Raises
        ------
        Refusal
            ``BODY_TOO_LARGE``, ``BODY_INCOMPLETE``, ``EMPTY_BODY``, ``BAD_MULTIPART`` or
            ``TOO_MANY_IMAGES``.
        BusyError
            If all bodies together would take more memory than allowed.
        """
        kind, parameters = content_type(request)
        if kind == "multipart/form-data":
            parts = Parts(parameters.get("boundary", ""), self._settings)
            limit = self._settings.max_images_bytes + MULTIPART_OVERHEAD
            async with self._held_while(request, limit) as receiving:
                try:
                    await self._receive(request, receiving, parts.write)
                    files = parts.files(empty=receiving.length == 0)
                finally:
                    parts.close()
                yield files
                # the frame of a generator may outlive what it yielded
                del files
        elif form:
            raise Refusal(
                "BAD_MULTIPART",
                "The body must be multipart/form-data.",
                "curl -F file=@FILE -F file=@FILE",
            )
        else:
            async with self._held_while(request, self._settings.max_body_bytes) as receiving:
                landing = landing_of(request.scope)
                if landing is not None:
                    yield [File(await self._land(landing))]
                    return
                pieces: list[bytes] = []
                await self._receive(request, receiving, pieces.append)
                _require_some(receiving)
                yield [File(b"".join(pieces))]

    @asynccontextmanager
    async def whole(self, request: Request, weight: int = 1) -> AsyncIterator[bytes]:
        """Yield a body as it is. ``weight``: how many times its bytes count as held.

        Its limit is that of a body of several images, as far as its weight leaves room.
        """
        limit = min(self._settings.max_images_bytes, self._settings.max_held_bytes // weight)
        stream = io.BytesIO()
        async with self._held_while(request, limit, weight) as receiving:
            await self._receive(request, receiving, stream.write)
            _require_some(receiving)
            yield stream.getvalue()

    @asynccontextmanager
    async def _held_while(
        self, request: Request, limit: int, weight: int = 1
    ) -> AsyncIterator["_Receiving"]:
        text = request.headers.get("content-length", "")
        claimed = int(text) if text.isascii() and text.isdigit() else 0
        receiving = _Receiving(limit, weight)
        if claimed > limit:
            raise _too_large(f"The body is {claimed} bytes", limit)
        try:
            self._hold(receiving, claimed)
            yield receiving
        finally:
            self._held -= receiving.held
            self._figures.held.set(self._held)

    async def _receive(
        self, request: Request, receiving: "_Receiving", write: Callable[[bytes], object]
    ) -> None:
        async with self._patience(lambda: receiving.length):
            more = True
            while more:
                chunk, more = await _chunk(request)
                receiving.length += len(chunk)
                if receiving.length > receiving.limit:
                    raise _too_large("The body goes on", receiving.limit)
                self._hold(receiving, receiving.length)
                if chunk:
                    write(chunk)

    async def _land(self, landing: Landing) -> Landed:
        landed = self._memory.take(landing.length)
        async with self._patience(lambda: landing.arrived):
            try:
                await landing.fill(landed.view)
            except ConnectionError:
                raise _left() from None
        return landed

    @asynccontextmanager
    async def _patience(self, arrived: Callable[[], int]) -> AsyncIterator[None]:
        seconds = self._settings.body_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise Refusal(
                "BODY_INCOMPLETE",
                f"{arrived()} bytes arrived in {seconds:g} s, then the service stopped waiting.",
            ) from None

    def _hold(self, receiving: "_Receiving", size: int) -> None:
        more = size * receiving.weight - receiving.held
        if more <= 0:
            return
        if self._held + more > self._settings.max_held_bytes:
            raise BusyError("the bodies under way take all the memory set aside for them")
        receiving.held += more
        self._held += more
        self._figures.held.set(self._held)


@dataclass(slots=True)
class _Receiving:
    """One body on its way: how much has come, and how much is counted as held for it."""

    limit: int
    weight: int
    length: int = 0
    held: int = 0


async def _chunk(request: Request) -> tuple[bytes, bool]:
    """Return the next bytes of a body, and whether more follow."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise _left()
    return message.get("body", b""), message.get("more_body", False)


def _left() -> Refusal:
    return Refusal("BODY_INCOMPLETE", "The client left before the body was whole.")


def _require_some(receiving: _Receiving) -> None:
    if receiving.length == 0:
        hint = "curl --data-binary @FILE .../v1/scores"
        raise Refusal("EMPTY_BODY", "The body is empty.", hint)


class Parts:
    """The parts of a ``multipart/form-data`` body (RFC 7578), taken in while they arrive.

    Raises
    ------
    Refusal
        ``BAD_MULTIPART`` if it can't be parsed, ``TOO_MANY_IMAGES`` or ``BODY_TOO_LARGE`` at the
        part that is one too many, or too large.
    """

    def __init__(self, boundary: str, settings: ServiceSettings) -> None:
        self._settings = settings
        self._parts: list[io.BytesIO] = []
        self._names: list[str] = []
        self._header, self._value = b"", b""
        self._closed = False
        try:
            self._parser = MultipartParser(
                boundary.encode("latin-1"),
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._field,
                    "on_header_value": self._said,
                    "on_header_end": self._headed,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except (FormParserError, UnicodeEncodeError):
            raise _unparsable() from None

    def write(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _unparsable() from None

    def files(self, *, empty: bool = False) -> list[File]:
        """Return the files of a body that is whole; ``empty``: no byte of it came.

        Raises
        ------
        Refusal
            ``BAD_MULTIPART`` or ``EMPTY_BODY``.
        """
        if empty:
            raise Refusal("EMPTY_BODY", "The body is empty.", "curl -F file=@FILE")
        try:
            self._parser.finalize()
        except FormParserError:
            raise _unparsable() from None
        if not self._closed:
            raise Refusal("BAD_MULTIPART", "The multipart body ends before its closing boundary.")
        if not self._parts:
            raise Refusal(
                "BAD_MULTIPART", "The multipart body holds no part.", "curl -F file=@FILE"
            )
        files = [
            File(part.getvalue(), name) for part, name in zip(self._parts, self._names, strict=True)
        ]
        for place, file in enumerate(files, start=1):
            if not file.data:
                raise Refusal("EMPTY_BODY", f"File {place} of {len(files)} is empty.")
        return files

    def close(self) -> None:
        """Let go of what came: the parser holds this, which holds the parser."""
        self._parts.clear()

    def _begin(self) -> None:
        most = self._settings.max_images
        if len(self._parts) == most:
            raise too_many(most)
        self._parts.append(io.BytesIO())
        self._names.append("")

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header = self._longer(self._header, data[start:end])

    def _said(self, data: bytes, start: int, end: int) -> None:
        self._value = self._longer(self._value, data[start:end])

    @staticmethod
    def _longer(text: bytes, more: bytes) -> bytes:
        if len(text) + len(more) > _LONGEST_HEADER:
            raise _unparsable()
        return text + more

    def _headed(self) -> None:
        if self._header.lower() == b"content-disposition":
            said = _parameters(self._value.decode("latin-1"))
            self._names[-1] = said[1].get("name", "")
        self._header, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        if part.tell() + end - start > self._settings.max_body_bytes:
            what = f"File {len(self._parts)} of the body goes on"
            raise _too_large(what, self._settings.max_body_bytes)
        part.write(data[start:end])

    def _end(self) -> None:
        self._closed = True


def too_many(most: int) -> Refusal:
    """Return the refusal of a request that holds more images than it may."""
    return Refusal(
        "TOO_MANY_IMAGES",
        f"The request holds more images than the {most} that this service takes at once.",
        "send several requests, or start the service with a larger HILUM_MAX_IMAGES",
    )


def content_type(request: Request) -> tuple[str, dict[str, str]]:
    """Return a request's media type, lower case, and its parameters; empty if it names none."""
    text = request.headers.get("content-type", "")
    return _parameters(text) if text else ("", {})


def _parameters(text: str) -> tuple[str, dict[str, str]]:
    # not the standard library's parser of mail: it fails on some continued parameters (RFC 2231)
    first, _, rest = text.partition(";")
    found = {
        name.lower(): value[1:-1].replace('\\"', '"') if value.startswith('"') else value.strip()
        for name, value in _PARAMETER.findall(rest)
    }
    return first.strip().lower(), found


def _unparsable() -> Refusal:
    return Refusal("BAD_MULTIPART", "The multipart body can't be parsed.", "curl -F file=@FILE")


def _too_large(what: str, limit: int) -> Refusal:
    return Refusal(
        "BODY_TOO_LARGE",
        f"{what}; this service takes up to {limit} bytes there ({limit / 2**20:g} MiB).",
        "send a compressed transfer syntax, or start the service with a larger --max-body-mb"
        " (one file) or HILUM_MAX_IMAGES_MB (several)",
    )
