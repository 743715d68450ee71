"""A label table to labels: which column says which image, patient, side, site and split, and which are labels."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from data_schemas.terms import SPLITS, Laterality, Split
from pipeline.ingest.columns import LabelColumn, Reader
from pipeline.ingest.roles import ALIASES, KEYS, ROLES, label_name
from pipeline.ingest.table import Table, raise_faults

__all__ = ["LabelColumn", "Labels", "Row", "read_labels"]

_SIDES: dict[str, Laterality] = {
    "OD": "R", "OS": "L", "OU": "B", "RIGHT": "R", "LEFT": "L", "BOTH": "B", "": "U",
    **{side: side for side in get_args(Laterality)},
}  # fmt: skip
_LONGEST_SITE = 64


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """What the table says about one image. Identifiers are raw: no ``repr``, never logged."""

    where: str
    line: int
    image: str
    source_sha256: str
    sop_instance_uid: str
    patient: str
    laterality: Laterality
    site: str
    split: Split | None
    labels: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """A checked label table."""

    columns: tuple[LabelColumn, ...]
    rows: tuple[Row, ...] = field(repr=False)
    remarks: tuple[str, ...]
    folder: Path = field(default=Path(), repr=False)
    """Where the table lies."""
    sided: bool = False
    """There is a column of sides: a row about a patient is about one eye where it names one."""


def read_labels(
    table: Table,
    only: tuple[str, ...] = (),
    ordinal: Mapping[str, tuple[str, ...]] | None = None,
) -> Labels:
    """Check a table and return its labels.

    Every column that is no role (:data:`ROLES`) is a label if it holds small whole numbers or a few
    words; other columns are ignored with a remark. An empty cell means: not known.

    Parameters
    ----------
    only
        Names of the labels to use; empty: all that are found.
    ordinal
        Labels whose classes have an order, which is the numbers' own, or the words given here.

    Raises
    ------
    DatasetError
        With every fault of the table and its line.
    """
    faults: list[str] = []
    remarks: list[str] = []
    roles = _roles(table, remarks)
    if not set(KEYS) & set(roles):
        faults.append(_no_key(table))
    patients = table.columns[roles["patient"]] if "patient" in roles else None
    orders = {label_name(name): words for name, words in (ordinal or {}).items()}
    reader = Reader(table, patients, orders, faults, remarks)
    wanted = {label_name(name) for name in only}
    found: dict[str, tuple[LabelColumn, list[int | None]]] = {}
    for title in table.columns:
        name = label_name(title)
        if title in roles.values() or (wanted and name not in wanted):
            continue
        column = reader.read(title, wanted=bool(wanted) or name in orders)
        if column is None:
            continue
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            faults.append(f"{table.name}: {title}: a label's name must begin with a letter a-z")
        elif name in found:
            faults.append(f"{table.name}: {title}: another column is called `{name}`, too")
        else:
            found[name] = column
    names = {label_name(title) for title in table.columns if title not in roles.values()}
    faults += [
        f"{table.name}: {name}: no such label column"
        for name in dict.fromkeys([*only, *(ordinal or {})])
        if label_name(name) not in names
    ]
    rows = _rows(table, roles, [values for _, values in found.values()], faults)
    raise_faults(faults)
    columns = tuple(column for column, _ in found.values())
    return Labels(columns, tuple(rows), tuple(remarks), table.folder, "laterality" in roles)


def _roles(table: Table, remarks: list[str]) -> dict[str, str]:
    """Return role -> the title of its column."""
    titles = {label_name(title): title for title in reversed(table.columns)}
    roles = {role: titles[role] for role in ROLES if role in titles}
    for role, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in titles), None)
        if role not in roles and alias is not None:
            roles[role] = titles[alias]
            remarks.append(f"column `{titles[alias]}` is taken as `{role}`")
    return roles


def _no_key(table: Table) -> str:
    what = f"{table.name}: no column {', '.join(f'`{key}`' for key in KEYS[:-1])} or `patient`"
    # without a header, the first row stands here: identifiers, perhaps
    if any(re.search(r"[\d.^/\\]", title) for title in table.columns):
        return f"{what}; is its first line a header?"
    return f"{what}; it has: {', '.join(table.columns)}"


def _rows(
    table: Table, roles: dict[str, str], labels: list[list[int | None]], faults: list[str]
) -> list[Row]:
    blank = [""] * len(table.lines)
    cells = {role: table.columns[roles[role]] if role in roles else blank for role in ROLES}
    rows = []
    for k, line in enumerate(table.lines):
        where = table.where(k)
        if not any(cells[key][k] for key in KEYS):
            faults.append(f"{where}: names no image")
        side = _SIDES.get(cells["laterality"][k].upper())
        if side is None:
            faults.append(f"{where}: laterality: is none of L, R, B, U")
        given = cells["split"][k].lower()
        split = next((known for known in SPLITS if known == given), None)
        if given and split is None:
            faults.append(f"{where}: split: is none of {', '.join(SPLITS)}")
        site = cells["site"][k]
        if len(site) > _LONGEST_SITE:
            faults.append(f"{where}: site: is longer than {_LONGEST_SITE} characters")
        rows.append(
            Row(
                where=where,
                line=line,
                image=cells["image"][k],
                source_sha256=cells["source_sha256"][k].lower(),
                sop_instance_uid=cells["sop_instance_uid"][k],
                patient=cells["patient"][k],
                laterality=side or "U",
                site=site,
                split=split,
                labels=tuple(column[k] for column in labels),
            )
        )
    return rows
