"""What every source answers: its files, none of them read yet, and remarks for a person."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn, TypeVar

from data_schemas.errors import ImageError
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.records import SourceFile

FIRST_WAIT_S = 0.5
"""Wait before the second attempt at a request; it doubles with every further one."""

Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Listing:
    """A source, listed. ``files`` keep the order in which their storage is read fastest."""

    name: str
    """A name for the data set that tells nothing about patients."""
    files: tuple[SourceFile, ...] = field(repr=False)
    columns: tuple[LabelColumn, ...] = ()
    """Labels that the source itself carries (MedMNIST); ``SourceFile.given`` holds their values."""
    remarks: tuple[str, ...] = ()
    root: str = field(default="", repr=False)
    """The folder that places are relative to, where the source is one; else empty."""
    requests: int = 1
    """How many files are worth fetching at the same time: more than 1 where each waits on a network."""


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """What the door knows about getting in: options and secrets. No ``repr``: never logged."""

    storage: tuple[tuple[str, Any], ...] = ()
    """Options of object storage, as fsspec's file systems take them (``endpoint_url`` ...)."""
    token: str = ""
    """Bearer token of a DICOMweb service."""
    user: str = ""
    password: str = ""
    ca_file: str = ""
    """Certificates that a private archive's own is signed with."""
    timeout_s: float = 60.0
    """Longest silence of a server."""
    attempts: int = 5
    """How often a request is tried; the waits between double from half a second."""
    most_bytes: int = 256 * 2**20
    """No file larger than this is fetched (the contract's ``limits.file_bytes``)."""


def patiently(
    call: Callable[[], Out],
    attempts: int,
    *,
    again: tuple[type[Exception], ...] = (Exception,),
    final: tuple[type[Exception], ...] = (),
) -> Out:
    """Return ``call()``; after an error of ``again`` that is none of ``final``, wait and try again."""
    for attempt in range(1, attempts):
        try:
            return call()
        except again as error:
            if isinstance(error, (*final, ImageError)):
                raise
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
    return call()


def refuse(code: str, what: str) -> NoReturn:
    """Raise ImageError: the ``fetch`` of a file that is known to be unreadable before it is read."""
    raise ImageError(code, what)


def refused(place: str, code: str, what: str) -> SourceFile:
    """Return a file that ends as this refusal."""
    return SourceFile(place, partial(refuse, code, what))


def spelled(path: str | os.PathLike[str]) -> str:
    """Return a path as text that can be hashed and compared, whatever bytes its name holds.

    File systems give bytes; those that are not UTF-8 are written as hexadecimal digits.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace(os.sep, "/")


def is_hidden(place: str) -> bool:
    """Tell whether a part of a place begins with a dot, or is the shadow folder of macOS archives."""
    parts = [part for part in place.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def finished(files: Iterable[SourceFile], most_bytes: int) -> tuple[SourceFile, ...]:
    """Return files with unique places, those beyond ``most_bytes`` refused before a byte is fetched."""
    seen: dict[str, int] = {}
    out: list[SourceFile] = []
    for file in files:
        count = seen[file.place] = seen.get(file.place, 0) + 1
        # an archive may hold two members of one name
        place = file.place if count == 1 else f"{file.place}#{count}"
        if file.size > most_bytes:
            what = f"{file.size} bytes, more than the contract's {most_bytes}"
            out.append(replace(refused(place, "TOO_LARGE", what), size=file.size))
        else:
            out.append(file if count == 1 else replace(file, place=place))
    return tuple(out)


def counted(count: int, one: str, many: str) -> tuple[str, ...]:
    """Return a remark about ``count`` things, or none."""
    if not count:
        return ()
    return (f"1 {one}" if count == 1 else f"{count} {many}",)
