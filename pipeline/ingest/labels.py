"""A label table to labels: which column says which image, patient, side and split, and which are labels."""

import re
from dataclasses import dataclass
from typing import get_args

from data_schemas.terms import SPLITS, LabelKind, Laterality, Split
from pipeline.ingest.table import Table, raise_faults

_MOST_CLASSES = 32
_MOSTLY = 0.9
_ROLES = ("image", "source_sha256", "patient", "laterality", "split")
_INTEGER = re.compile(r"-?\d+(\.0*)?")
_TRUTH = {"true": "1", "false": "0"}
_SIDES: dict[str, Laterality] = {
    "OD": "R", "OS": "L", "OU": "B", "RIGHT": "R", "LEFT": "L", "BOTH": "B", "": "U",
    **{side: side for side in get_args(Laterality)},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A label's name, kind and classes, as the table shows them."""

    name: str
    kind: LabelKind
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """What the table says about one image. ``patient`` is raw: no ``repr``, never logged."""

    where: str
    image: str
    source_sha256: str
    patient: str
    laterality: Laterality
    split: Split | None
    labels: tuple[int | None, ...]

    @property
    def line(self) -> int:
        """The line alone, without the table's name."""
        return int(self.where.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Labels:
    """A checked label table."""

    columns: tuple[LabelColumn, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]


def read_labels(table: Table, only: tuple[str, ...] = ()) -> Labels:
    """Check a table and return its labels.

    Every column that is not one of image, source_sha256, patient, laterality and split is a label
    if its values are small non-negative whole numbers; other columns are ignored with a remark.

    Parameters
    ----------
    only
        Names of the labels to use; empty: all that are found.

    Raises
    ------
    DatasetError
        With every fault of the table and its line.
    """
    faults: list[str] = []
    remarks: list[str] = []
    if not {"image", "source_sha256"} & set(table.columns):
        known = ", ".join(table.columns)
        faults.append(f"{table.name}: no column `image` or `source_sha256`; it has: {known}")
    found: dict[str, tuple[LabelColumn, list[int | None]]] = {}
    for title, cells in table.columns.items():
        if title in _ROLES:
            continue
        name = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
        if only and title not in only and name not in only:
            continue
        wanted = bool(only)
        values = _label_values(table, title, cells, (wanted, faults, remarks))
        if values is None:
            continue
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            faults.append(f"{table.name}: {title}: a label's name must begin with a letter a-z")
        elif name in found:
            faults.append(f"{table.name}: {title}: another column is called `{name}`, too")
        else:
            found[name] = (_column(name, values), values)
    missing = [name for name in only if name not in found and name not in table.columns]
    faults += [f"{table.name}: {name}: no such label column" for name in missing]
    rows = _rows(table, [values for _, values in found.values()], faults)
    raise_faults(faults)
    return Labels(tuple(column for column, _ in found.values()), tuple(rows), tuple(remarks))


def _column(name: str, values: list[int | None]) -> LabelColumn:
    present = {value for value in values if value is not None}
    if present <= {0, 1}:
        return LabelColumn(name, "binary", ("0", "1"))
    return LabelColumn(name, "classes", tuple(str(k) for k in range(max(present) + 1)))


def _label_values(
    table: Table, title: str, cells: list[str], how: tuple[bool, list[str], list[str]]
) -> list[int | None] | None:
    # the column as integers (None: empty), or None if it is no label
    wanted, faults, remarks = how
    cells = [_TRUTH.get(cell.lower(), cell) for cell in cells]
    filled = [cell for cell in cells if cell]
    whole = [cell for cell in filled if _INTEGER.fullmatch(cell)]
    if len(whole) < len(filled):
        if not wanted and len(whole) < _MOSTLY * len(filled):
            remarks.append(f"column `{title}` is text: ignored")
            return None
        faults += [
            f"{table.where(row)}: {title}: {cell!r} is not a whole number; mend it or empty the cell"
            for row, cell in enumerate(cells)
            if cell and not _INTEGER.fullmatch(cell)
        ]
        return None
    if not whole:
        if wanted:
            faults.append(f"{table.name}: {title}: the column is empty")
        return None
    values = [int(cell.partition(".")[0]) if cell else None for cell in cells]
    small = [value for value in values if value is not None and 0 <= value < _MOST_CLASSES]
    if len(small) < len(whole):
        if wanted:
            faults += [
                f"{table.where(row)}: {title}: {value} is no class; they are 0..{_MOST_CLASSES - 1}"
                for row, value in enumerate(values)
                if value is not None and not 0 <= value < _MOST_CLASSES
            ]
        else:
            remarks.append(f"column `{title}` goes beyond 0..{_MOST_CLASSES - 1}: ignored")
        return None
    return values


def _rows(table: Table, labels: list[list[int | None]], faults: list[str]) -> list[Row]:
    count = len(table.lines)
    blank = [""] * count
    images = table.columns.get("image", blank)
    digests = [cell.lower() for cell in table.columns.get("source_sha256", blank)]
    sides = table.columns.get("laterality", blank)
    splits = table.columns.get("split", blank)
    patients = table.columns.get("patient", blank)
    seen: dict[str, str] = {}
    rows = []
    for k in range(count):
        where = table.where(k)
        name = images[k] or digests[k]
        if not name:
            faults.append(f"{where}: names no image")
        elif name in seen:
            faults.append(f"{where}: names the same image as {seen[name]}")
        seen.setdefault(name, where)
        side = _SIDES.get(sides[k].upper())
        if side is None:
            faults.append(f"{where}: laterality: {sides[k]!r} is none of L, R, B, U")
        split = next((known for known in SPLITS if known == splits[k].lower()), None)
        if splits[k] and split is None:
            faults.append(f"{where}: split: {splits[k]!r} is none of {', '.join(SPLITS)}")
        values = tuple(column[k] for column in labels)
        rows.append(Row(where, images[k], digests[k], patients[k], side or "U", split, values))
    return rows
