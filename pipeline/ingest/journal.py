"""The journal of an ingestion: one line for each file that is done, written after its pixels.

Every line begins with its CRC-32, so that what a killed process left half written is cut off. It holds
pseudonyms and keyed hashes only, and stays in the data set: the next version starts from it.
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, ClassVar, Self

from data_schemas.document import Document
from pipeline.ingest.lines import Lines, begin_lines, first_line, sound_lines, tree_of
from pipeline.ingest.patients import pseudonym
from pipeline.ingest.records import Refusal, SourceFile, Taken

PASSING = frozenset({"TIMED_OUT", "DECODER_DIED"})
"""Refusals that another try, with more time or memory, may not end in."""
_OF_ENTRY = {"source_sha256", "place_key"}
_TAKEN = [f.name for f in fields(Taken) if f.name not in {*_OF_ENTRY, "given"}]
_REFUSAL = [f.name for f in fields(Refusal) if f.name not in {*_OF_ENTRY, "label_line"}]
_TUPLES = ("warnings",)
_NONE: dict[str, float] = {}
_OFTEN = ("patient", "site", "laterality", "view", "device", "format", "modality")


class Header(Document):
    """The journal's first line: what its entries were made with. Only the same may go on with them."""

    VERSION: ClassVar[int] = 1

    schema_version: int = VERSION
    contract_sha256: str
    key_sha256: str
    """Fingerprint of the key: a keyed hash that tells nothing about it."""
    hilum_version: str
    pixel_makers: str = ""
    """Versions of hilum and of the decoders: pixels of two versions are never mixed."""
    previous_sha256: str = ""
    """Content of the data set in the same place, whose pixels negative rows point to."""


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """One file that is done."""

    place_key: str
    state_key: str
    """Keyed hash of the file's size and state; empty: unknown."""
    source_sha256: str
    outcomes: tuple[Taken | Refusal, ...]

    def lasting(self) -> bool:
        """Tell whether another try would end the same way: not after a time-out, a crash, a read error."""
        refused = [outcome for outcome in self.outcomes if isinstance(outcome, Refusal)]
        if any(refusal.code in PASSING for refusal in refused):
            return False
        return bool(self.source_sha256) or any(r.code == "TOO_LARGE" for r in refused)

    def moved(self, place_key: str, state_key: str) -> "Entry":
        """Return the entry of another file of the same bytes."""
        outcomes = tuple(replace(outcome, place_key=place_key) for outcome in self.outcomes)
        return Entry(place_key, state_key, self.source_sha256, outcomes)


def fingerprint(key: bytes) -> str:
    """Return what tells two keys apart and nothing else about them."""
    return pseudonym(key, "key:fingerprint")


def state_key(key: bytes, file: SourceFile) -> str:
    """Return the keyed hash of a file's size and state; empty if its source knows no state."""
    return pseudonym(key, f"state:{file.size}:{file.state}") if file.state else ""


class Journal:
    """A journal file, open for reading and appending; what is torn at its end is cut off.

    Parameters
    ----------
    path
        A file whose first line is a header; see :func:`begin`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = Lines(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def append(self, entry: Entry) -> int:
        """Write one entry and return its place in the file."""
        return self._lines.append(_entry_tree(entry))

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Yield every entry with its place in the file."""
        return entries_of(self._path)

    def at(self, place: int) -> Entry:
        """Return the entry at a place that :meth:`append` or :meth:`entries` gave."""
        with self._path.open("rb") as stream:
            stream.seek(place)
            tree = tree_of(stream.readline())
        if tree is None:
            raise ValueError(f"no entry begins at byte {place}")
        return _entry(tree)

    def sync(self) -> None:
        """Wait until everything is on the disk itself."""
        self._lines.sync()


def entries_of(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield every sound entry of a journal file with its place in the file."""
    start = 0
    for tree, end in sound_lines(path):
        if start:
            yield start, _entry(tree)
        start = end


def begin(path: Path, header: Header, seed: Iterable[Entry] = ()) -> None:
    """Write a new journal that holds ``seed``; it appears whole."""
    begin_lines(path, chain([header.model_dump(mode="json")], map(_entry_tree, seed)))


def header_of(path: Path) -> Header | None:
    """Return a journal's header, ``None`` if it has none that this hilum reads."""
    tree = first_line(path)
    try:
        return None if tree is None else Header.model_validate(tree)
    except ValueError:
        return None


def _entry_tree(entry: Entry) -> dict[str, Any]:
    return {
        "place": entry.place_key,
        "state": entry.state_key,
        "digest": entry.source_sha256,
        "outcomes": [_outcome_tree(outcome) for outcome in entry.outcomes],
    }


def _outcome_tree(outcome: Taken | Refusal) -> dict[str, Any]:
    if isinstance(outcome, Taken):
        return {name: getattr(outcome, name) for name in _TAKEN}
    tree = {name: getattr(outcome, name) for name in _REFUSAL}
    if outcome.thumbnail is not None:
        tree["thumbnail"] = base64.b64encode(outcome.thumbnail).decode()
    return tree


def _entry(tree: dict[str, Any]) -> Entry:
    place, digest = tree["place"], tree["digest"]
    shared = {"place_key": place, "source_sha256": digest}
    outcomes = tuple(_outcome(tree | shared) for tree in tree["outcomes"])
    return Entry(place, tree["state"], digest, outcomes)


def _outcome(tree: dict[str, Any]) -> Taken | Refusal:
    if "code" in tree:
        picture = tree["thumbnail"]
        return Refusal(
            **tree | {"thumbnail": None if picture is None else base64.b64decode(picture)}
        )
    # the same few words stand in every entry: kept once
    kept: dict[str, Any] = {name: intern(tree[name]) for name in _OFTEN}
    kept["features"] = tree["features"] or _NONE
    return Taken(**tree | kept | {name: tuple(tree[name]) for name in _TUPLES})
