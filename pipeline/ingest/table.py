"""A label table as columns of text with the line of every row: CSV or Parquet, whatever wrote it."""

import csv
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Table:
    """Column name -> cells, stripped; and each row's place (a CSV's line, a Parquet's row)."""

    name: str
    columns: dict[str, list[str]]
    lines: list[int]

    def where(self, row: int) -> str:
        """Return ``file:line`` of a row."""
        return f"{self.name}:{self.lines[row]}"


def read_table(path: Path) -> Table:
    """Read a label table.

    Raises
    ------
    DatasetError
        If the file is missing, can't be read, has no rows, or a header that can't be used.
    """
    if not path.is_file():
        raise DatasetError("no such label table", where=path)
    with path.open("rb") as stream:
        magic = stream.read(4)
    table = _parquet(path) if magic == b"PAR1" else _csv(path)
    if not table.lines:
        raise DatasetError("the label table has no rows", where=path)
    return table


def _csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            "the label table is neither UTF-8 CSV nor Parquet", where=path, mend="save it as UTF-8"
        ) from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    header: list[str] | None = None
    faults: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip() for cell in row]
                faults += _header_faults(header, f"{path.name}:{reader.line_num}")
            elif len(row) != len(header):
                place = f"{path.name}:{reader.line_num}"
                faults.append(f"{place}: {len(row)} cells, the header has {len(header)}")
            else:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DatasetError(
            f"is not CSV: {error}", where=f"{path.name}:{reader.line_num}"
        ) from error
    raise_faults(faults)
    names = header or []
    return Table(path.name, {name: [r[k] for r in rows] for k, name in enumerate(names)}, lines)


def _parquet(path: Path) -> Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("the Parquet file can't be read", where=path) from error
    raise_faults(_header_faults(table.column_names, path.name))
    columns = {
        name: ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
        for name, cells in table.to_pydict().items()
    }
    return Table(path.name, columns, list(range(1, table.num_rows + 1)))


def _header_faults(header: list[str], where: str) -> list[str]:
    faults = [f"{where}: column {k + 1} has no name" for k, name in enumerate(header) if not name]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    return faults + [f"{where}: {name}: stands twice in the header" for name in twice]


def raise_faults(faults: list[str], most: int = 50) -> None:
    """Raise one DatasetError with all faults (after ``most`` only their number), if there are any."""
    if not faults:
        return
    shown = faults[:most]
    if len(faults) > most:
        shown.append(f"... and {len(faults) - most} more")
    raise DatasetError("\n".join(shown), mend="mend these lines of the label table and run again")
