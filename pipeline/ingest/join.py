"""Joins what was taken with what labels say: by file, digest, SOP Instance UID, or patient and eye.

Rows are matched with files twice. Before anything is read, :func:`named_files` finds the files that
rows name by path, so that a wrong folder is told at once. After reading, :func:`join` adds what only
the files themselves tell: their digest, their UID, their patient.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.ingest.labels import Labels, Row
from pipeline.ingest.names import NamedFiles, lines_of
from pipeline.ingest.patients import pseudonym
from pipeline.ingest.records import Known, Refusal, Taken, refusal_of

Pair = tuple[Taken, Known]


@dataclass(frozen=True, slots=True, repr=False)
class Joined:
    """Every image with what is known of it, the refusals of the others, and what a person should know."""

    pairs: list[Pair]
    refusals: list[Refusal]
    remarks: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    """Keyed hash of a file's place -> the line of the label table that names it."""

    def with_lines(self, refusals: Iterable[Refusal]) -> list[Refusal]:
        """Return refusals of files that were not read, with the lines that name those files."""
        return [
            replace(refusal, label_line=refusal.label_line or self.lines.get(refusal.place_key, 0))
            for refusal in refusals
        ]


def without_labels(taken: Iterable[Taken], key: bytes) -> Joined:
    """Join images with what their source itself says about them."""
    return Joined([(image, _own(image, key)) for image in taken], [])


def join(labels: Labels, named: NamedFiles, taken: Sequence[Taken], key: bytes) -> Joined:
    """Join images with the rows of a label table.

    A row about a file comes before a row about a patient's eye, and that before a row about the
    patient. Several rows about one file must agree where they say something about the same label.

    Parameters
    ----------
    named
        Which row names which file, from :func:`pipeline.ingest.names.named_files`.
    taken
        Every image that was read, in any order.
    key
        Key of the pseudonyms.
    """
    rows = _Rows(labels, named, key)
    notes = _Notes(labels.rows[0].where.rpartition(":")[0] if labels.rows else "")
    pairs: list[Pair] = []
    refusals: list[Refusal] = []
    for image in taken:
        outcome = _joined(image, rows.of(image), notes, key)
        if isinstance(outcome, Refusal):
            refusals.append(outcome)
        else:
            pairs.append(outcome)
    unused = [row for row in labels.rows if row.line not in rows.used and not row.image]
    notes.add("rows_unused", unused)
    lines = {place: some[0].line for place, some in named.rows.items()}
    return Joined(pairs, refusals, notes.remarks(), lines)


class _Rows:
    """The rows of a table, found by what a file tells of itself."""

    def __init__(self, labels: Labels, named: NamedFiles, key: bytes) -> None:
        self._sided = labels.sided
        self._places = named.rows
        self._digests: dict[str, list[Row]] = defaultdict(list)
        self._instances: dict[str, list[Row]] = defaultdict(list)
        self._patients: dict[str, list[Row]] = defaultdict(list)
        self.used: set[int] = set()
        for row in labels.rows:
            if row.image:
                continue
            if row.source_sha256:
                self._digests[row.source_sha256].append(row)
            elif row.sop_instance_uid:
                self._instances[pseudonym(key, f"instance:{row.sop_instance_uid}")].append(row)
            else:
                self._patients[pseudonym(key, row.patient)].append(row)

    def of(self, image: Taken) -> list[Row]:
        """Return the rows about an image, of the most particular kind that there are."""
        rows = [
            *self._places.get(image.place_key, ()),
            *self._digests.get(image.source_sha256, ()),
            *(self._instances.get(image.instance_key, ()) if image.instance_key else ()),
        ]
        if not rows and image.patient:
            about = self._patients.get(image.patient, [])
            sides = [row for row in about if row.laterality in ("B", image.laterality)]
            whole = [row for row in about if row.laterality == "U"]
            rows = ([row for row in sides if row.laterality != "U"] if self._sided else []) or whole
        self.used |= {row.line for row in rows}
        return rows


def _joined(image: Taken, rows: list[Row], notes: "_Notes", key: bytes) -> Pair | Refusal:
    if not rows:
        return refusal_of(image, "NO_LABEL", "the label table has no row for this file", 0)
    first = rows[0]
    wrong = [row for row in rows if row.source_sha256 not in ("", image.source_sha256)]
    if wrong:
        notes.add("other_bytes", wrong)
        reason = "the row that names this file was made for other bytes: its source_sha256 differs"
        return refusal_of(image, "NO_LABEL", reason, wrong[0].line)
    if len(rows) > 1:
        notes.add("rows_twice", rows)
    row = _merged(rows)
    if row is None:
        lines = ", ".join(str(row.line) for row in rows)
        reason = f"{len(rows)} rows of the label table contradict each other (lines {lines})"
        return refusal_of(image, "CONFLICTING_LABEL", reason, first.line)
    if row.labels and not any(value is not None for value in row.labels):
        reason = "every label of this file is empty in the table"
        return refusal_of(image, "NO_LABEL", reason, first.line)
    return _known(image, row, notes, key)


def _merged(rows: list[Row]) -> Row | None:
    """Return several rows about one file as one: each may know what another leaves open.

    None: they contradict each other.
    """
    patients = {row.patient for row in rows if row.patient}
    sides = {row.laterality for row in rows if row.laterality != "U"}
    if sides & {"L", "R"}:
        sides.discard("B")  # a row about both eyes says nothing against one of them
    sites = {row.site for row in rows if row.site}
    splits = {row.split for row in rows if row.split}
    if any(len(said) > 1 for said in (patients, sides, sites, splits)):
        return None
    out: list[int | None] = []
    for values in zip(*(row.labels for row in rows), strict=True):
        known = {value for value in values if value is not None}
        if len(known) > 1:
            return None
        out.append(known.pop() if known else None)
    # what names the file stays the first row's: the others need not say it again
    return replace(
        rows[0],
        patient=next(iter(patients), ""),
        laterality=next(iter(sides), "U"),
        site=next(iter(sites), ""),
        split=next(iter(splits), None),
        labels=tuple(out),
    )


def _own(image: Taken, key: bytes) -> Known:
    given = image.given
    # a study is of one person, and so are all frames of a file (an array's row is a file of its own);
    # the prefix keeps it apart from every identifier
    own = image.study or pseudonym(key, f"file:{image.source_sha256}")
    return Known(
        labels=() if given is None else given.labels,
        patient=image.patient or own,
        laterality=image.laterality,
        site=image.site,
        split=None if given is None else given.split,
        official_test=given is not None and given.official_test,
    )


def _known(image: Taken, row: Row, notes: "_Notes", key: bytes) -> Pair:
    known = _own(image, key)
    patient = known.patient
    if row.patient:
        patient = pseudonym(key, row.patient)
        if image.patient:
            notes.patients.append((image.patient, patient, row.line))
    # a person wrote the table for these images; the header comes second, but a difference is told
    side, header = row.laterality, image.laterality
    if side == "B" and header in ("L", "R"):
        side = header  # a row about both eyes says nothing against one of them
    if side != "U" and header not in ("U", side):
        notes.add("other_side", [row])
        remark = f"laterality {side} in the table, {header} in the header"
        image = replace(image, warnings=(*image.warnings, remark))
    return image, Known(
        labels=row.labels,
        patient=patient,
        laterality=header if side == "U" else side,
        site=row.site or image.site,
        split=row.split,
        where=row.where,
        line=row.line,
    )


_SAID = {
    "rows_unused": "match no file that could be read",
    "rows_twice": "are about a file that another row is about, too",
    "other_bytes": "name a file whose SHA-256 is another than theirs: it was changed after labelling",
    "other_side": "give another laterality than the header; the table's is kept, with a warning",
}


@dataclass
class _Notes:
    """What was seen while joining, by kind: lines of the table, never what stands in them."""

    table: str
    seen: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    patients: list[tuple[str, str, int]] = field(default_factory=list)
    """Pseudonyms of the header's and the table's patient, and the line."""

    def add(self, kind: str, rows: Iterable[Row]) -> None:
        """Remember rows."""
        self.seen[kind] |= {row.line for row in rows}

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know, with counts and lines."""
        out = [
            f"{self.table}: {len(lines)} rows {_SAID[kind]} ({lines_of(lines)})"
            for kind, lines in self.seen.items()
            if lines
        ]
        return (*out, *self._patients_remark())

    def _patients_remark(self) -> tuple[str, ...]:
        other = [line for header, table, line in self.patients if header != table]
        if not other:
            return ()
        tables: dict[str, set[str]] = defaultdict(set)
        lines: dict[str, set[int]] = defaultdict(set)
        for header, table, line in self.patients:
            tables[header].add(table)
            lines[header].add(line)
        spread = [header for header, names in tables.items() if len(names) > 1]
        merged = [n for n in Counter(next(iter(t)) for t in tables.values()).values() if n > 1]
        said = [f"{self.table}: {len(set(other))} rows name the patient otherwise than the header; the table's name is kept ({lines_of(other)})"]  # fmt: skip
        if spread:
            where = lines_of(line for header in spread for line in lines[header])
            said.append(
                f"{self.table}: {len(spread)} patients of the headers are several patients in the "
                f"table ({where}): images of one person may come into different splits"
            )
        if merged and not spread:
            said.append(
                f"{self.table}: {len(merged)} patients of the table are several in the headers"
            )
        return tuple(said)
