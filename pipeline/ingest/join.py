"""Joins what was taken with what labels say: by the file's place or its digest, or from the source itself."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.ingest.labels import Labels, Row
from pipeline.ingest.patients import place_key, pseudonym
from pipeline.ingest.records import Known, Refusal, SourceFile, Taken
from pipeline.ingest.table import raise_faults


class Rows:
    """The rows of a label table, found by a file's place in the source or by its digest."""

    def __init__(self, labels: Labels, places: dict[str, Row]) -> None:
        self._places = places
        self._digests = {row.source_sha256: row for row in labels.rows if not row.image}

    def of(self, place: str, source_sha256: str) -> Row | None:
        """Return the row that names a file; ``place`` is its keyed hash."""
        return self._places.get(place) or self._digests.get(source_sha256)


def rows_of(
    labels: Labels, table: Path, source: Path, files: Iterable[SourceFile], key: bytes
) -> Rows:
    """Find the file of every row that names one, before anything is decoded.

    Paths are below the source, or else below the table's folder.

    Raises
    ------
    DatasetError
        If rows name files that are not there, or two rows name the same.
    """
    places = {(source / file.place).resolve(): file.place for file in files}
    found: dict[str, Row] = {}
    faults: list[str] = []
    for row in labels.rows:
        if not row.image:
            continue
        paths = [(base / row.image).resolve() for base in (source, table.parent)]
        place = next((places[path] for path in paths if path in places), None)
        # the name itself may identify a patient: the line is enough
        if place is None:
            faults.append(f"{row.where}: image: no such file in the source folder")
            continue
        hashed = place_key(key, place)
        if hashed in found:
            faults.append(f"{row.where}: names the same file as {found[hashed].where}")
        found[hashed] = row
    raise_faults(faults)
    return Rows(labels, found)


def join(
    taken: Iterable[Taken], rows: Rows | None, key: bytes
) -> tuple[list[tuple[Taken, Known]], list[Refusal]]:
    """Return every image with what is known of it, and the refusals of those without a label."""
    pairs: list[tuple[Taken, Known]] = []
    refusals: list[Refusal] = []
    for image in taken:
        row = None if rows is None else rows.of(image.place_key, image.source_sha256)
        if rows is not None and (row is None or not _labelled(row)):
            refusals.append(_refusal(image, row))
        else:
            pairs.append(_pair(image, row, key))
    return pairs, refusals


def _labelled(row: Row) -> bool:
    return not row.labels or any(value is not None for value in row.labels)


def _refusal(image: Taken, row: Row | None) -> Refusal:
    reason = "the label table has no row for this file"
    if row is not None:
        reason = "every label of this file is empty in the table"
    return Refusal(
        image.source_sha256,
        "NO_LABEL",
        reason,
        frame=image.frame,
        place_key=image.place_key,
        label_line=0 if row is None else row.line,
    )


def _pair(image: Taken, row: Row | None, key: bytes) -> tuple[Taken, Known]:
    # a file without a patient is its own; the prefix keeps it apart from every identifier
    own = f"file:{image.source_sha256}:{image.pixel_sha256}"
    patient = image.patient or pseudonym(key, own)
    given = image.given
    if row is None:
        labels = () if given is None else given.labels
        split = None if given is None else given.split
        official = given is not None and given.official_test
        known = Known(labels, patient, image.laterality, image.site, split, official)
        return image, known
    if row.patient:
        patient = pseudonym(key, row.patient)
    # a person wrote the table for these images; the header comes second, but a difference is told
    side, header = row.laterality, image.laterality
    if side != "U" and header not in ("U", side):
        remark = f"laterality {side} in the table, {header} in the header"
        image = replace(image, warnings=(*image.warnings, remark))
    return image, Known(
        labels=row.labels,
        patient=patient,
        laterality=header if side == "U" else side,
        site=image.site,
        split=row.split,
        where=row.where,
        line=row.line,
    )
