"""A package's list of digests, and whether its files are as it says. Light: it may run while numpy is imported."""

import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data_schemas.errors import PackageError
from data_schemas.files import sha256

SUMS = "SHA256SUMS"
GRAPH = "model.onnx"
WEIGHTS = "model.safetensors"
"""In torch's own form: not for serving, which leaves them alone."""

CARD = "card.json"
CONTRACT = "contract.json"
VERIFICATION = "verification.npz"
REFERENCE = "reference.npz"
KEPT_FILES = (GRAPH, WEIGHTS, VERIFICATION)
"""What stays the same when only the card changes, besides what is optional."""

FILES = (CARD, CONTRACT, GRAPH, WEIGHTS, VERIFICATION)
"""What every package holds besides ``SHA256SUMS``."""

INT8_GRAPH = "model.int8.onnx"
"""The same network in 8-bit integers."""

OPTIONAL = (INT8_GRAPH, REFERENCE)
"""What not every package has."""

Mark = tuple[int, int, int, int, int]
"""Device, inode, size, and when contents and inode last changed: the last can't be set by anybody."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]*)")
_TICK_NS = 1_000_000_000
"""Far longer than the clock of any file system takes to move on."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What ``SHA256SUMS`` says of a folder's files."""

    folder: Path
    sha256: str
    """Of the list itself: the package's digest."""
    digests: Mapping[str, str]
    """File name -> SHA-256."""
    checked: Mapping[str, Mark] = field(default_factory=dict, repr=False, compare=False)
    """File name -> the mark of the file whose bytes had the right digest."""

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, hashed unless it is the very one that was checked.

        Raises
        ------
        PackageError
            If the file is missing, or isn't the one that ``SHA256SUMS`` names.
        """
        path = self.folder / name
        with _found(path), path.open("rb") as stream:
            data = stream.read()
            same = _mark(stream) == self.checked.get(name)
        if not same:
            _compare(sha256(data), self.digests[name], path)
        return data

    def unchanged(self, name: str) -> bool:
        """Tell whether a file is the very one that was checked: then whoever opens it need not hash it."""
        path = self.folder / name
        with _found(path), path.open("rb") as stream:
            return _mark(stream) == self.checked.get(name)


def check_files(folder: Path, unread: Collection[str] = ()) -> Sums:
    """Hash the files of a package, two at a time, and compare them with its list.

    Parameters
    ----------
    folder
        Where it lies.
    unread
        Files that the caller never reads: they aren't hashed, unless they are read after all.

    Raises
    ------
    PackageError
        If there is no such folder or list, a line of it is none, or a file is missing or altered.
    """
    if not folder.is_dir():
        raise PackageError("no such package folder", where=folder)
    try:
        listed = (folder / SUMS).read_bytes()
    except OSError as error:
        raise PackageError(
            f"holds no {SUMS}: not a model package, or an incomplete one", where=folder
        ) from error
    digests = _parsed(listed, folder / SUMS)
    wanted = [name for name in digests if name not in unread]
    # the graph and the weights are as large as each other: hashed side by side
    with ThreadPoolExecutor(2) as hashing:
        marks = hashing.map(lambda name: _check_file(folder / name, digests[name]), wanted)
        checked = {name: mark for name, mark in zip(wanted, marks, strict=True) if mark}
    return Sums(folder, sha256(listed), digests, checked)


def _parsed(data: bytes, where: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None or found[2] in digests:
            raise PackageError("is not a line of `digest  file`", where=f"{where}:{number}")
        digests[found[2]] = found[1]
    unknown = sorted(digests.keys() - {*FILES, *OPTIONAL})
    if unknown:
        raise PackageError(f"lists {', '.join(unknown)}: no file of a package", where=where)
    missing = [name for name in FILES if name not in digests]
    if missing:
        raise PackageError(f"doesn't list {', '.join(missing)}", where=where)
    return digests


def _mark(stream: BinaryIO) -> Mark:
    found = os.fstat(stream.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check_file(path: Path, digest: str) -> Mark | None:
    """Hash a file in blocks: a large one isn't in memory at once. Return its mark.

    ``None`` if it changed just now: within a tick of the clock it could change again unmarked.
    """
    with _found(path), path.open("rb") as stream:
        mark = _mark(stream)
        settled = time.time_ns() - mark[-1] > _TICK_NS
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    _compare(found, digest, path)
    return mark if settled else None


@contextmanager
def _found(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PackageError(
            "is missing from the package, or can't be read",
            where=path,
            mend="fetch or write the package again",
        ) from error


def _compare(found: str, digest: str, path: Path) -> None:
    if found != digest:
        raise PackageError(
            f"was altered: its SHA-256 is {found[:12]}, {SUMS} says {digest[:12]}",
            where=path,
            mend="fetch or write the package again",
        )
