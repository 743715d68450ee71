"""What a source holds: its files in a stable order, and the labels that it brings itself."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_schemas.errors import DatasetError, UsageError
from pipeline.ingest.labels import LabelColumn
from pipeline.ingest.records import SourceFile


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a source in the order of their places, and the labels they carry."""

    files: tuple[SourceFile, ...]
    columns: tuple[LabelColumn, ...] = ()
    remarks: tuple[str, ...] = ()


def from_folder(source: Path, table: Path | None) -> Listing:
    """List a folder's files. Hidden files and the label table itself don't count.

    Raises
    ------
    UsageError
        If ``source`` is no folder.
    DatasetError
        If there are no files.
    """
    if not source.is_dir():
        raise UsageError("is neither a folder nor a .npz file", where=source)
    own = table.resolve() if table else None
    files = [_file(path, source) for path in _paths(source) if path.resolve() != own]
    if not files:
        raise DatasetError("the folder holds no files", where=source)
    return Listing(tuple(sorted(files, key=lambda file: file.place)))


def _paths(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path


def _file(path: Path, source: Path) -> SourceFile:
    facts = path.stat()
    # the time of change of the entry, too: a copy that keeps the older time is another file
    state = f"{facts.st_mtime_ns}:{facts.st_ctime_ns}"
    place = path.relative_to(source).as_posix()
    return SourceFile(place, partial(path.read_bytes), facts.st_size, state)
