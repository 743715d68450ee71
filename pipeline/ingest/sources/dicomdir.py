"""A DICOMDIR: the directory of a disc or stick (PS3.3 annex F, PS3.10 section 8), and the files it names."""

from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from data_schemas.errors import DatasetError
from data_schemas.progress import Progress
from pipeline.ingest.sources.folder import Walk, files_at, walk
from pipeline.ingest.sources.listing import Access, Listing, counted, finished, spelled

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_INACTIVE = 0


def find_dicomdir(folder: Path) -> Path | None:
    """Return the DICOMDIR at the top of a folder, or None. Discs copied by hand may spell it small."""
    for path in sorted(folder.iterdir()):
        if path.name.upper() == "DICOMDIR" and path.is_file():
            return path
    return None


def is_dicomdir(path: Path) -> bool:
    """Tell whether a file is a DICOM file of the class Media Storage Directory."""
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return False
        meta = pydicom.filereader.read_file_meta_info(path)
    except (OSError, InvalidDicomError, ValueError, KeyError, EOFError):
        return False
    return str(meta.get("MediaStorageSOPClassUID", "")) == _MEDIA_STORAGE_DIRECTORY


def open_dicomdir(path: Path, progress: Progress, access: Access) -> Listing:
    """List the files that a DICOMDIR references, and no others below its folder.

    Names are matched without regard to case and to the version number of ISO 9660 (``;1``): copies of
    discs change both. What is named but missing, and what is there but not named, is counted.

    Raises
    ------
    DatasetError
        If it can't be read as a DICOMDIR, or none of its files is there.
    """
    named = _referenced(path)
    met = Walk()
    there: dict[str, Path] = {}
    for found in walk(path.parent, met):
        there.setdefault(_plain(spelled(found.relative_to(path.parent))), found)
    there.pop(_plain(path.name), None)
    kept = [(place, there[place]) for place in named if place in there]
    if not kept:
        what = f"none of the {len(named)} files that the DICOMDIR names is there"
        raise DatasetError(what, where=path, mend="keep the DICOMDIR beside the disc's folders")
    files = []
    remarks: list[str] = []
    for done, (_, found) in enumerate(kept, start=1):
        some, said = files_at(found, spelled(found.relative_to(path.parent)))
        files += some
        remarks += said
        progress(done, len(kept), "listing")
    beside = len(there) - len(kept)
    remarks += counted(
        len(named) - len(kept),
        "file that the DICOMDIR names is missing",
        "files that the DICOMDIR names are missing",
    )
    remarks += counted(
        beside,
        "file beside the DICOMDIR is not named by it and not taken",
        "files beside the DICOMDIR are not named by it and not taken",
    )
    root = path.parent.resolve()
    return Listing(
        root.name, finished(files, access.most_bytes), remarks=tuple(remarks), root=str(root)
    )


def _referenced(path: Path) -> list[str]:
    try:
        directory = pydicom.dcmread(path)
        records = directory.DirectoryRecordSequence or []
        places = [_place(record) for record in records]
    # pydicom raises whatever its parsers meet in broken bytes
    except Exception as error:
        raise DatasetError(
            "can't be read as a DICOMDIR", where=path, mend="give its folders as the source instead"
        ) from error
    return list(dict.fromkeys(place for place in places if place))


def _place(record: Any) -> str:
    # PS3.3 F.3: 0000H marks a record that is no longer in use
    if record.get("RecordInUseFlag", 0xFFFF) == _INACTIVE:
        return ""
    parts = record.get("ReferencedFileID") or ()
    names = [parts] if isinstance(parts, str) else [str(part) for part in parts]
    return _plain("/".join(name for name in names if name))


def _plain(place: str) -> str:
    name = place.replace("\\", "/").lower()
    return name.partition(";")[0].rstrip(".")
