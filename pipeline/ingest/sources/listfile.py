"""A list file: one path in each line, absolute or relative to the list."""

from pathlib import Path

from data_schemas.errors import DatasetError
from data_schemas.progress import Progress
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.folder import files_at
from pipeline.ingest.sources.listing import Access, Listing, counted, finished, spelled
from pipeline.ingest.table import raise_faults

_TITLES = {"image", "file", "path", "filename"}


def open_list(path: Path, progress: Progress, access: Access) -> Listing:
    """List the files that a list names; archives among them count as their members.

    Empty lines and lines that begin with # don't count. A CSV's first column counts, and its
    title, if it has one of the usual names, doesn't.

    Raises
    ------
    DatasetError
        With the line of every path that leads to no file.
    """
    base = path.parent
    files: list[SourceFile] = []
    remarks: list[str] = []
    faults: list[str] = []
    lines: dict[str, int] = {}
    twice = 0
    named = _paths(path)
    for done, (line, text) in enumerate(named, start=1):
        target = base / text
        if "://" in text:
            faults.append(f"{path.name}:{line}: is no path: objects are a source of their own")
        elif not target.is_file():
            what = "is a folder, not a file" if target.is_dir() else "leads to no file"
            faults.append(f"{path.name}:{line}: {what}")
        elif (real := str(target.resolve())) in lines:
            twice += 1
        else:
            lines[real] = line
            some, said = files_at(target, spelled(text).removeprefix("./"))
            files += some
            remarks += said
        progress(done, len(named), "listing")
    raise_faults(faults, mend="mend these lines of the list and run again")
    if not files:
        raise DatasetError("the list names no files", where=path)
    remarks += counted(twice, "line names a file again", "lines name a file again")
    return Listing(
        path.stem,
        finished(files, access.most_bytes),
        remarks=tuple(remarks),
        root=str(base.resolve()),
    )


def _paths(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError("the list can't be read as UTF-8 text", where=path) from error
    if "\0" in text:
        raise DatasetError("is no list of paths: it holds zero bytes", where=path)
    named: list[tuple[int, str]] = []
    for number, whole in enumerate(text.splitlines(), start=1):
        cell = whole.strip()
        if path.suffix.lower() == ".csv":
            cell = _first_cell(cell)
        if not cell or cell.startswith("#"):
            continue
        if not named and cell.lower() in _TITLES:
            continue
        named.append((number, cell))
    return named


def _first_cell(line: str) -> str:
    if line.startswith('"'):
        return line[1:].partition('"')[0]
    return min((line.partition(mark)[0] for mark in ",;\t"), key=len).strip()
