"""What there is to take: every file of a folder or image of a .npz, joined with its row of labels."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_schemas.contract import Contract
from data_schemas.errors import DatasetError, UsageError
from data_schemas.files import sha256_of_file
from data_schemas.progress import Progress
from data_schemas.terms import Laterality, Split
from pipeline.imaging.instance import Instance
from pipeline.imaging.limits import check_file
from pipeline.imaging.read import read
from pipeline.ingest.labels import LabelColumn, Labels, Row
from pipeline.ingest.table import raise_faults


@dataclass(frozen=True, slots=True, repr=False)
class Candidate:
    """One file or array that may become an image, with what the labels say about it."""

    source_sha256: str
    read: Callable[[Contract], Instance]
    labels: tuple[int | None, ...] | None
    """``None``: no row names it."""
    patient: str = ""
    laterality: Laterality = "U"
    split: Split | None = None
    official_test: bool = False
    """Belongs to a published test split, which stays as it was published."""
    where: str = ""
    """The row's place in the label table."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """All candidates in the order of their digests, and the labels they carry."""

    found: tuple[Candidate, ...]
    columns: tuple[LabelColumn, ...]
    remarks: tuple[str, ...] = ()


def from_folder(
    source: Path, table: Path | None, labels: Labels | None, progress: Progress
) -> Candidates:
    """List a folder's files, hash them, and join them with the rows of a label table.

    Hidden files and the table itself don't count.

    Raises
    ------
    UsageError
        If ``source`` is no folder.
    DatasetError
        If there are no files, or rows name files that are not there.
    """
    if not source.is_dir():
        raise UsageError("is neither a folder nor a .npz file", where=source)
    own = table.resolve() if table else None
    files = sorted(path for path in _files(source) if path.resolve() != own)
    if not files:
        raise DatasetError("the folder holds no files", where=source)
    digests = _digests(files, progress)
    rows = {} if labels is None else _joined(labels, source, table, digests)
    # two files of the same bytes keep the order of their paths
    ordered = sorted(files, key=lambda path: (digests[path], path))
    found = tuple(
        _candidate(path, digests[path], rows.get(path), labelled=labels is not None)
        for path in ordered
    )
    if labels is None:
        return Candidates(found, ())
    return Candidates(found, labels.columns, labels.remarks)


def _files(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path


def _digests(files: list[Path], progress: Progress) -> dict[Path, str]:
    digests: dict[Path, str] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for path, digest in zip(files, pool.map(sha256_of_file, files), strict=True):
            digests[path] = digest
            progress(len(digests), len(files), "hashing")
    return digests


def _joined(
    labels: Labels, source: Path, table: Path | None, digests: dict[Path, str]
) -> dict[Path, Row]:
    by_place = {path.resolve(): path for path in digests}
    by_digest: dict[str, list[Path]] = {}
    for path, digest in digests.items():
        by_digest.setdefault(digest, []).append(path)
    bases = [source] if table is None else [source, table.parent]
    rows: dict[Path, Row] = {}
    faults: list[str] = []
    for row in labels.rows:
        if row.image:
            places = [(base / row.image).resolve() for base in bases]
            files = [by_place[place] for place in places if place in by_place][:1]
        else:
            files = by_digest.get(row.source_sha256, [])
        # the name itself may identify a patient: the line is enough
        if not files:
            faults.append(f"{row.where}: image: no such file in the source folder")
        for path in files:
            if path in rows:
                faults.append(f"{row.where}: names the same file as {rows[path].where}")
            rows[path] = row
    raise_faults(faults)
    return rows


def _candidate(path: Path, digest: str, row: Row | None, *, labelled: bool) -> Candidate:
    reader = partial(_read_file, path)
    if row is None:
        return Candidate(digest, reader, None if labelled else ())
    return Candidate(
        digest, reader, row.labels, row.patient, row.laterality, row.split, where=row.where
    )


def _read_file(path: Path, contract: Contract) -> Instance:
    check_file(path.stat().st_size, contract.limits)
    return read(path.read_bytes(), contract)
