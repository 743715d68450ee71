"""A folder of any depth: its files, and the members of the archives in it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from data_schemas.errors import DatasetError, ImageError
from data_schemas.progress import Progress
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.archive import has_archive_name, members
from pipeline.ingest.sources.listing import Access, Listing, counted, finished, refused, spelled


@dataclass
class Walk:
    """What was met on the way through a folder, beside its files."""

    hidden: int = 0
    hidden_folders: int = 0
    dangling: int = 0
    special: int = 0
    unlisted: list[Path] = field(default_factory=list)

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know."""
        return (
            *counted(self.hidden, "hidden file doesn't count", "hidden files don't count"),
            *counted(
                self.hidden_folders,
                "hidden folder, with all that is in it, doesn't count",
                "hidden folders, with all that is in them, don't count",
            ),
            *counted(self.dangling, "link leads nowhere", "links lead nowhere"),
            *counted(self.special, "entry is no regular file", "entries are no regular files"),
            *counted(len(self.unlisted), "folder can't be listed", "folders can't be listed"),
        )


def walk(root: Path, met: Walk) -> Iterator[Path]:
    """Yield the regular files below ``root`` that are not hidden, each folder's in order of names.

    Links are followed. A folder that links lead to a second time, or in a circle, counts once, under
    its own name where it has one inside ``root``.
    """
    linked: list[Path] = []
    visited: set[str] = set()
    yield from _down(root, met, visited, linked)
    while linked:
        folder = linked.pop(0)
        if os.path.realpath(folder) not in visited:
            yield from _down(folder, met, visited, linked)


def _down(root: Path, met: Walk, visited: set[str], linked: list[Path]) -> Iterator[Path]:
    def unlisted(error: OSError) -> None:
        met.unlisted.append(Path(error.filename))

    for name, folders, files in os.walk(root, onerror=unlisted):
        here = Path(name)
        visited.add(os.path.realpath(here))
        met.hidden += sum(child.startswith(".") for child in files)
        met.hidden_folders += sum(child.startswith(".") for child in folders)
        shown = sorted(child for child in folders if not child.startswith("."))
        links = {child for child in shown if (here / child).is_symlink()}
        linked += [here / child for child in shown if child in links]
        folders[:] = [child for child in shown if child not in links]
        for child in sorted(files):
            path = here / child
            if child.startswith("."):
                continue
            if path.is_file():
                yield path
            elif path.is_symlink() and not path.exists():
                met.dangling += 1
            else:
                met.special += 1


def open_folder(
    root: Path, progress: Progress, access: Access, *, table: Path | None = None
) -> Listing:
    """List a folder. ``table``, the label table, is no image and doesn't count.

    Raises
    ------
    DatasetError
        If there are no files.
    """
    own = None if table is None else os.path.realpath(table)
    met = Walk()
    files: list[SourceFile] = []
    remarks: list[str] = []
    for path in walk(root, met):
        if own is not None and os.path.realpath(path) == own:
            continue
        some, said = files_at(path, spelled(path.relative_to(root)))
        files += some
        remarks += said
        progress(len(files), len(files), "listing")
    for folder in met.unlisted:
        place = spelled(folder.relative_to(root))
        files.append(refused(place, "UNREADABLE", "a folder that may not be listed"))
    if not files:
        raise DatasetError("the folder holds no files", where=root)
    return Listing(
        name=root.resolve().stem,
        files=finished(files, access.most_bytes),
        remarks=(*met.remarks(), *remarks),
        root=str(root.resolve()),
    )


def files_at(path: Path, place: str) -> tuple[list[SourceFile], tuple[str, ...]]:
    """Return one file of the file system; for an archive its members, with remarks."""
    try:
        stamp = stamp_of(path)
        size = path.stat().st_size
        if not has_archive_name(path.name):
            return [SourceFile(place, partial(read_file, str(path)), size, stamp)], ()
        return members(partial(_opened, str(path), stamp), f"{path}:{stamp}", f"{place}/")
    except OSError:
        return [refused(place, "UNREADABLE", "the file can't be read from its storage")], ()
    except ImageError as error:
        return [refused(place, error.code, error.what)], (f"an archive is refused: {error.what}",)


def stamp_of(path: Path) -> str:
    """Return what changes when a file is written: both times of change (ns) and the length.

    The entry's time counts, too: a copy that keeps the older time of its content is another file.
    """
    status = path.stat()
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_size}"


def read_file(path: str) -> bytes:
    """Read a file whole.

    Raises
    ------
    ImageError
        UNREADABLE, if its storage doesn't give it.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError("UNREADABLE", "the file can't be read from its storage") from error


def _opened(path: str, stamp: str) -> IO[bytes]:
    if stamp_of(Path(path)) != stamp:
        raise ImageError("UNREADABLE", "the archive changed while it was read")
    return Path(path).open("rb")


def open_archive(path: Path, access: Access) -> Listing:
    """List an archive given as the source itself.

    Raises
    ------
    DatasetError
        If it is broken, encrypted or empty.
    """
    stamp = stamp_of(path)
    try:
        files, remarks = members(partial(_opened, str(path), stamp), f"{path}:{stamp}", "")
    except (ImageError, OSError) as error:
        what = error.what if isinstance(error, ImageError) else "the archive can't be read"
        raise DatasetError(what, where=path, mend="copy or download it again") from error
    if not files:
        raise DatasetError("the archive holds no files", where=path)
    name = path.name.partition(".")[0]
    return Listing(name, finished(files, access.most_bytes), remarks=remarks)
