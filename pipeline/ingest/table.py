"""A label table as columns of text with the line of every row: CSV, Parquet or JSON, whatever wrote it."""

import csv
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import DatasetError
from pipeline.ingest.roles import is_key

_SEPARATOR = re.compile(r'"?sep=([^"\n])"?[ ;,\t]*(\n|\Z)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Table:
    """Column name -> cells, stripped; and each row's place (a CSV's line, another's row)."""

    name: str
    columns: dict[str, list[str]]
    lines: list[int]
    folder: Path = field(default=Path(), repr=False)
    """Where the table lies: its paths may be relative to it."""

    def where(self, row: int) -> str:
        """Return ``file:line`` of a row."""
        return f"{self.name}:{self.lines[row]}"


def read_table(path: Path) -> Table:
    """Read a label table: CSV, Parquet, a JSON array of objects, or one JSON object in each line.

    Raises
    ------
    DatasetError
        If the file is missing, can't be read, has no rows, or a header that can't be used.
    """
    if not path.is_file():
        raise DatasetError("no such label table", where=path)
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head[:4] == b"PAR1":
        table = _parquet(path)
    elif head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{"):
        table = _json(path)
    else:
        table = _csv(path)
    if not table.lines:
        raise DatasetError("the label table has no rows", where=path)
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            "the label table is neither UTF-8 CSV or JSON nor Parquet",
            where=path,
            mend="save it as UTF-8",
        ) from error


def _csv(path: Path) -> Table:
    text = _text(path)
    said = _SEPARATOR.match(text)  # Excel's own line, which is no row
    delimiter = said[1] if said else _delimiter(text)
    above = 1 if said else 0
    reader = _reader(text[said.end() :] if said else text, delimiter)
    rows: list[list[str]] = []
    lines: list[int] = []
    header: list[str] | None = None
    faults: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            line = reader.line_num + above
            if header is None:
                header = [cell.strip() for cell in row]
                faults += _header_faults(header, f"{path.name}:{line}")
            elif len(row) != len(header):
                faults.append(f"{path.name}:{line}: {len(row)} cells, the header has {len(header)}")
            else:
                rows.append([cell.strip() for cell in row])
                lines.append(line)
    except csv.Error as error:
        place = f"{path.name}:{reader.line_num + above}"
        raise DatasetError(f"is not CSV: {error}", where=place) from error
    raise_faults(faults)
    names = header or []
    columns = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    return Table(path.name, columns, lines, path.parent)


def _reader(text: str, delimiter: str) -> Any:
    # lines end where CSV's end: a cell may hold every other mark that Unicode ends lines with
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _delimiter(text: str) -> str:
    """Return what the header is divided by: what gives a column that names images, else most columns."""
    return max(",;\t", key=lambda delimiter: _divided(text, delimiter))


def _divided(text: str, delimiter: str) -> tuple[bool, int]:
    try:
        header = next(row for row in _reader(text, delimiter) if any(map(str.strip, row)))
    except (csv.Error, StopIteration):
        return False, 0
    return any(map(is_key, header)), len(header)


def _parquet(path: Path) -> Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("the Parquet file can't be read", where=path) from error
    raise_faults(_header_faults(table.column_names, path.name))
    columns = {name: [_cell(cell) for cell in cells] for name, cells in table.to_pydict().items()}
    return Table(path.name, columns, list(range(1, table.num_rows + 1)), path.parent)


def _json(path: Path) -> Table:
    """Read JSON; the place of a row is its line in JSON lines, and its number in an array."""
    rows = _json_rows(path)
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    faults = _header_faults(names, path.name)
    for line, row in rows:
        nested = [name for name, cell in row.items() if isinstance(cell, dict | list)]
        faults += [f"{path.name}:{line}: {name}: is no single value" for name in nested]
    raise_faults(faults)
    columns = {name: [_cell(row.get(name)) for _, row in rows] for name in names}
    return Table(path.name, columns, [line for line, _ in rows], path.parent)


def _json_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    text = _text(path)
    try:
        if text.lstrip().startswith("["):
            found = list(enumerate(json.loads(text), start=1))
        else:
            lines = enumerate(text.split("\n"), start=1)
            found = [(line, json.loads(row)) for line, row in lines if row.strip()]
        text.encode()
        json.dumps([row for _, row in found], ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        # the message quotes the place, not the text
        what = str(error) if isinstance(error, json.JSONDecodeError) else "its text can't be read"
        raise DatasetError(
            f"is neither a JSON array nor JSON lines: {what}", where=path.name
        ) from error
    wrong = [line for line, row in found if not isinstance(row, dict)]
    raise_faults([f"{path.name}:{line}: is no JSON object" for line in wrong])
    return found


def _cell(cell: object) -> str:
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def _header_faults(header: list[str], where: str) -> list[str]:
    faults = [f"{where}: column {k + 1} has no name" for k, name in enumerate(header) if not name]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    return faults + [f"{where}: {name}: stands twice in the header" for name in twice]


def raise_faults(
    faults: list[str],
    most: int = 50,
    mend: str = "mend these lines of the label table and run again",
) -> None:
    """Raise one DatasetError with all faults (after ``most`` only their number), if there are any."""
    if not faults:
        return
    shown = faults[:most]
    if len(faults) > most:
        shown.append(f"... and {len(faults) - most} more")
    raise DatasetError("\n".join(shown), mend=mend)
