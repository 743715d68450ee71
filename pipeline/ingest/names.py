"""Which file a row of a label table names: by its path, or by its bare name where that is unique."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_schemas.errors import DatasetError
from pipeline.ingest.labels import Labels, Row
from pipeline.ingest.patients import place_key
from pipeline.ingest.records import SourceFile
from pipeline.ingest.table import raise_faults

_SHOWN = 8
_ENDINGS = {"bmp", "dcm", "dicom", "ima", "jp2", "jpeg", "jpg", "png", "tif", "tiff", "webp"}


@dataclass(frozen=True, slots=True, repr=False)
class NamedFiles:
    """Keyed hash of a file's place -> the rows that name it."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def lines_of(lines: Iterable[int]) -> str:
    """Return lines of a table as a person reads them: the first few, and how many more."""
    ordered = sorted(set(lines))
    shown = ", ".join(str(line) for line in ordered[:_SHOWN])
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"{'line' if len(ordered) == 1 else 'lines'} {shown}{more}"


def named_files(
    labels: Labels, files: Iterable[SourceFile], root: str, key: bytes, *, strict: bool = False
) -> NamedFiles:
    """Find the file of every row that names one, before anything is decoded.

    A path is below the source, or else below the table's folder, or else the end of a place in the
    source; a bare name, also without its ending, counts where it is unique.

    Parameters
    ----------
    root
        The folder of the source, where it is one; else empty.
    strict
        A row without its file is a fault.

    Raises
    ------
    DatasetError
        If more than half of the rows that name a file match none, or with ``strict`` any.
    """
    naming = [row for row in labels.rows if row.image]
    if not naming:
        return NamedFiles()
    search = _Search([file.place for file in files], root, labels.folder)
    rows: dict[str, list[Row]] = defaultdict(list)
    missing: list[Row] = []
    several: list[Row] = []
    by_name: list[Row] = []
    for row in naming:
        places, exact = search.places(row.image)
        if not places:
            missing.append(row)
        elif len(places) > 1:
            several.append(row)
        else:
            rows[place_key(key, places[0])].append(row)
            if not exact:
                by_name.append(row)
    table = naming[0].where.rpartition(":")[0]
    if strict:
        again = [(row, group[0]) for group in rows.values() for row in group[1:]]
        raise_faults(
            [f"{row.where}: image: no such file in the source" for row in missing]
            + [f"{row.where}: image: several files have this name" for row in several]
            + [f"{row.where}: names the same file as {first.where}" for row, first in again]
        )
    if 2 * (len(missing) + len(several)) > len(naming):
        raise _nothing_matches(table, naming, missing, several, search)
    remarks = [
        f"{table}: {len(some)} rows {said} ({lines_of(row.line for row in some)})"
        for some, said in (
            (missing, "name no file of the source"),
            (several, "name several files alike, and count for none: give them a folder"),
            (by_name, "name their file by its name alone, which is unique in the source"),
        )
        if some
    ]
    return NamedFiles(dict(rows), tuple(remarks))


class _Search:
    """The places of a source, found by path, by the end of a path and by name."""

    def __init__(self, places: list[str], root: str, folder: Path) -> None:
        self.places_in_order = places
        self._root = root
        self._folder = os.path.realpath(folder)
        self._exact = {_plain(place): place for place in places}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for place in places:
            name = _plain(place).rpartition("/")[2]
            self._by_name[name].append(place)
            self._by_stem[PurePosixPath(name).stem].append(place)

    def places(self, image: str) -> tuple[list[str], bool]:
        """Return the places that a row may mean, and whether it names them from the top."""
        path = _plain(image)
        for whole in (
            path,
            self._below_root(self._root, path),
            self._below_root(self._folder, path),
        ):
            if whole in self._exact:
                return [self._exact[whole]], True
        name = path.rpartition("/")[2]
        tail = f"/{path}"
        found = [
            place for place in self._by_name.get(name, ()) if _plain(f"/{place}").endswith(tail)
        ]
        if not found and path == name:
            found = self._by_stem.get(name, [])
        return found, False

    def _below_root(self, base: str, path: str) -> str | None:
        if not self._root or "://" in path or "\0" in path:
            return None
        whole = os.path.normpath(str(Path(base) / path))
        relative = os.path.relpath(whole, self._root)
        return None if relative.startswith("..") else _plain(relative)


def _plain(path: str) -> str:
    # macOS writes letters and accents apart, a spreadsheet together
    text = unicodedata.normalize("NFC", path).replace("\\", "/")
    return re.sub(r"/(\./)+|//+", "/", text.removeprefix("./"))


def _nothing_matches(
    table: str, naming: list[Row], missing: list[Row], several: list[Row], search: _Search
) -> DatasetError:
    lost = len(missing) + len(several)
    shapes = {shape_of(row.image) for row in naming[:20]}
    there = {shape_of(place) for place in search.places_in_order[:20]}
    lines = lines_of(row.line for row in [*missing, *several])
    cause = "the table is for another folder, or its paths start elsewhere"
    if len(several) > len(missing):
        cause = "the table's names stand in several folders: write the folder before the name"
    elif {PurePosixPath(shape).suffix for shape in shapes}.isdisjoint(
        {PurePosixPath(shape).suffix for shape in there}
    ):
        cause = "the table's names and the source's files have different endings"
    what = (
        f"{lost} of {len(naming)} rows match no single file of the source ({lines})\n"
        f"the table names files like {_some(shapes)}\n"
        f"the source has files like {_some(there)}\n"
        f"(a: letters, 9: digits)"
    )
    return DatasetError(
        what,
        where=table,
        mend=f"likely cause: {cause}; for a part of a source give the rows of this part only",
    )


def shape_of(path: str) -> str:
    """Return what a path looks like without telling it: letters as a, digits as 9, its ending kept."""
    whole, dot, ending = path.rpartition(".")
    if ending.lower() not in _ENDINGS:  # any other might be half a name
        whole, dot, ending = path, "", ""
    text = re.sub(r"[^\W\d_]+", "a", whole.replace("\\", "/"))
    return re.sub(r"\d+", "9", text) + dot + ending


def _some(shapes: set[str]) -> str:
    few = sorted(shapes)[:3]
    return ", ".join(few) + (" ..." if len(shapes) > len(few) else "")
