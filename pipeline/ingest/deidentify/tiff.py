"""A TIFF written anew with the tags that decoding needs; strips and tiles are copied as they are."""

import struct
from dataclasses import dataclass

from data_schemas.errors import ImageError
from pipeline.ingest.deidentify.icc import clean_profile
from pipeline.ingest.deidentify.jpeg import clean_jpeg

_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_TABLES, _PROFILE, _COMPRESSION, _SUBFILE = 347, 34675, 259, 254
_KEPT = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 274, 277, 278, 282, 283, 284, 292, 293, 296, 317, 320}
    | {321, 322, 323, 332, 334, 336, 338, 339, 340, 341, 529, 530, 531, 532, 32997, 32998}
)
"""TIFF 6.0 section 8 and supplements: numbers that say how the pixels are stored. None is text."""
_WIDTHS = {1: 1, 3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
_JPEG, _OLD_JPEG = 7, 6
_MOST_PAGES = 10_000
_MOST_VALUES = 1 << 24


@dataclass(frozen=True, slots=True)
class _Form:
    """How this file stores its numbers."""

    order: str
    big: bool

    @property
    def word(self) -> str:
        return "Q" if self.big else "I"

    @property
    def inline(self) -> int:
        return 8 if self.big else 4


@dataclass(frozen=True, slots=True)
class _Field:
    kind: int
    count: int
    body: bytes


def clean_tiff(data: bytes) -> bytes:
    """Return the pages of a TIFF or BigTIFF with allowed tags only; reduced pictures go.

    Raises
    ------
    ImageError
        TRUNCATED or CORRUPT if it can't be followed, NO_DECODER for the JPEG of TIFF 6.0 section 22,
        whose stream can't be cleaned.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise ImageError("CORRUPT", "the TIFF header is wrong")
    form = _Form(order, struct.unpack(f"{order}H", data[2:4])[0] == 43)
    head = 8 if form.big else 4
    at = struct.unpack(f"{order}{form.word}", _piece(data, head, form.inline))[0]
    pages: list[dict[int, _Field]] = []
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MOST_PAGES:
        seen.add(at)
        fields, at = _directory(data, at, form)
        if not pages or not _first_number(fields, _SUBFILE, form) & 1:
            pages.append(fields)
    if not pages:
        raise ImageError("CORRUPT", "the TIFF file holds no page")
    return _written(data, pages, form)


def _written(data: bytes, pages: list[dict[int, _Field]], form: _Form) -> bytes:
    start = 16 if form.big else 8
    body = bytearray(start)
    link = 8 if form.big else 4
    for fields in pages:
        kept = {tag: field for tag, field in fields.items() if tag in _KEPT}
        kept |= _pixels(data, fields, form, body)
        _even(body)
        for tag, field in kept.items():
            if len(field.body) > form.inline:
                place = len(body)
                body += field.body
                _even(body)
                kept[tag] = _Field(field.kind, field.count, _pack(form, form.word, place))
        body[link : link + form.inline] = _pack(form, form.word, len(body))
        body += _pack(form, "Q" if form.big else "H", len(kept))
        for tag, field in sorted(kept.items()):
            body += struct.pack(f"{form.order}HH{form.word}", tag, field.kind, field.count)
            body += field.body.ljust(form.inline, b"\0")
        link = len(body)
        body += bytes(form.inline)
    head = b"II" if form.order == "<" else b"MM"
    head += _pack(form, "H", 43) + _pack(form, "H", 8) + bytes(2) if form.big else _pack(form, "H", 42)  # fmt: skip
    body[: len(head)] = head
    return bytes(body)


def _pixels(
    data: bytes, fields: dict[int, _Field], form: _Form, body: bytearray
) -> dict[int, _Field]:
    """Copy the strips or tiles to the end of ``body``; return the fields that point at them."""
    compression = _first_number(fields, _COMPRESSION, form)
    if compression == _OLD_JPEG:
        raise ImageError("NO_DECODER", "the old kind of JPEG in TIFF is not supported")
    made: dict[int, _Field] = {}
    places, sizes = (_TILES, _TILE_BYTES) if _TILES in fields else (_STRIPS, _STRIP_BYTES)
    if places not in fields or sizes not in fields:
        raise ImageError("CORRUPT", "the TIFF page doesn't say where its pixels are")
    starts, lengths = _numbers(fields[places], form), _numbers(fields[sizes], form)
    if len(starts) != len(lengths):
        raise ImageError(
            "CORRUPT", "the TIFF page says more places of pixels than lengths, or fewer"
        )
    new_starts, new_lengths = [], []
    for start, length in zip(starts, lengths, strict=True):
        piece = _piece(data, start, length)
        if compression == _JPEG:
            piece = clean_jpeg(piece, in_dicom=True)
        _even(body)
        new_starts.append(len(body))
        new_lengths.append(len(piece))
        body += piece
    kind = 16 if form.big else 4
    for tag, numbers in ((places, new_starts), (sizes, new_lengths)):
        packed = struct.pack(f"{form.order}{len(numbers)}{form.word}", *numbers)
        made[tag] = _Field(kind, len(numbers), packed)
    if _TABLES in fields:
        tables = clean_jpeg(fields[_TABLES].body, in_dicom=True)
        made[_TABLES] = _Field(7, len(tables), tables)
    if _PROFILE in fields:
        profile = clean_profile(fields[_PROFILE].body)
        if profile is not None:
            made[_PROFILE] = _Field(7, len(profile), profile)
    return made


def _directory(data: bytes, at: int, form: _Form) -> tuple[dict[int, _Field], int]:
    count_form = "Q" if form.big else "H"
    size = struct.calcsize(f"<{count_form}")
    count = struct.unpack(f"{form.order}{count_form}", _piece(data, at, size))[0]
    entry = 20 if form.big else 12
    if count > 4096:
        raise ImageError("CORRUPT", "the TIFF directory claims too many entries")
    fields: dict[int, _Field] = {}
    for place in range(at + size, at + size + count * entry, entry):
        raw = _piece(data, place, entry)
        tag, kind, values = struct.unpack(f"{form.order}HH{form.word}", raw[: 4 + form.inline])
        if tag not in _KEPT and tag not in (
            _STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _TABLES, _PROFILE,
        ):  # fmt: skip
            continue
        width = 1 if kind == 7 else _WIDTHS.get(kind, 0)
        allowed = kind != 7 or tag in (_TABLES, _PROFILE)
        if not width or not allowed or values > _MOST_VALUES:
            continue
        length = width * values
        inside = raw[4 + form.inline :]
        if length > form.inline:
            inside = _piece(data, struct.unpack(f"{form.order}{form.word}", inside)[0], length)
        fields[tag] = _Field(kind, values, inside[:length])
    end = at + size + count * entry
    following = data[end : end + form.inline]
    if len(following) < form.inline:
        return fields, 0
    return fields, struct.unpack(f"{form.order}{form.word}", following)[0]


def _numbers(field: _Field, form: _Form) -> list[int]:
    code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(field.kind)
    if code is None:
        raise ImageError("CORRUPT", "a TIFF tag is of the wrong kind")
    return list(struct.unpack(f"{form.order}{field.count}{code}", field.body))


def _first_number(fields: dict[int, _Field], tag: int, form: _Form) -> int:
    return _numbers(fields[tag], form)[0] if tag in fields and fields[tag].count else 0


def _piece(data: bytes, at: int, length: int) -> bytes:
    if at < 0 or at + length > len(data):
        raise ImageError("TRUNCATED", "the TIFF file ends before what it points at")
    return data[at : at + length]


def _pack(form: _Form, code: str, number: int) -> bytes:
    return struct.pack(f"{form.order}{code}", number)


def _even(body: bytearray) -> None:
    body += bytes(len(body) % 2)
