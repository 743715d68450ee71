"""What a batch scores: every file of every source named, each under one unique name, in a stable order."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from data_schemas.progress import Progress
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.archive import has_archive_name
from pipeline.ingest.sources.dicomdir import is_dicomdir
from pipeline.ingest.sources.dicomweb import PREFIX
from pipeline.ingest.sources.folder import files_at
from pipeline.ingest.sources.listing import Access, finished, spelled
from pipeline.ingest.sources.open import open_source

_SOURCES = (".npz", ".txt", ".csv", ".lst", ".list")


@dataclass(frozen=True, slots=True)
class Named:
    """The files of a batch. ``place`` is what stands in the table's column ``file``."""

    files: tuple[SourceFile, ...]
    remarks: tuple[str, ...] = ()
    requests: int = 1
    """How many files are worth fetching at the same time."""


def named_files(sources: Iterable[str], access: Access, progress: Progress) -> Named:
    """List sources: image files, and whatever else :func:`open_source` opens.

    Raises
    ------
    UsageError
        If one of them is nothing that can be read.
    DatasetError
        If one of them is broken or empty.
    """
    files: dict[str, SourceFile] = {}
    remarks: list[str] = []
    requests = 1
    for source in sources:
        if _is_one_file(source):
            found, said = files_at(Path(source), spelled(source))
            some = finished(found, access.most_bytes)
        else:
            listing = open_source(source, progress=progress, access=access)
            base = _base(source)
            some = tuple(replace(file, place=base + file.place) for file in listing.files)
            said, requests = listing.remarks, max(requests, listing.requests)
        remarks += said
        for file in some:  # a file named twice is scored once
            files.setdefault(file.place, file)
    return Named(tuple(files.values()), tuple(remarks), requests)


def _is_one_file(source: str) -> bool:
    if "://" in source or source.startswith(PREFIX):
        return False
    path = Path(source)
    is_source = has_archive_name(path.name) or path.suffix.lower() in _SOURCES
    return path.is_file() and not is_source and not is_dicomdir(path)


def _base(source: str) -> str:
    if source.startswith(PREFIX):
        return ""  # what is asked for may name a patient; UIDs are places of their own
    if "://" in source:
        return source.rstrip("/") + "/"
    path = Path(source)
    if path.is_dir():
        return f"{spelled(path)}/"
    if has_archive_name(path.name) or path.suffix.lower() == ".npz":
        return f"{spelled(path)}/"
    # a list's and a DICOMDIR's files lie beside it
    return "" if str(path.parent) == "." else f"{spelled(path.parent)}/"
