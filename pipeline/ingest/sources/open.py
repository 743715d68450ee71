"""Tells what kind of source an address is, and opens it."""

from pathlib import Path

from data_schemas.errors import UsageError
from data_schemas.progress import Progress
from pipeline.ingest.sources.archive import has_archive_name
from pipeline.ingest.sources.dicomdir import find_dicomdir, is_dicomdir, open_dicomdir
from pipeline.ingest.sources.dicomweb import PREFIX, open_dicomweb
from pipeline.ingest.sources.folder import open_archive, open_folder
from pipeline.ingest.sources.listfile import open_list
from pipeline.ingest.sources.listing import Access, Listing
from pipeline.ingest.sources.medmnist import open_npz
from pipeline.ingest.sources.objects import open_objects

KINDS = (
    "a folder, a .zip or .tar archive, a DICOMDIR, a list file (.txt or .csv), a MedMNIST .npz, "
    "an address of object storage (s3://bucket/prefix) or of DICOMweb (dicomweb+https://host/path)"
)


def open_source(
    where: str, *, progress: Progress, access: Access | None = None, table: Path | None = None
) -> Listing:
    """List a source. No image is read yet.

    Parameters
    ----------
    where
        A path or an address; :data:`KINDS` names what it may be.
    access
        Options and secrets, from the door; ``None``: none are needed.
    table
        The label table: inside a folder it is no image.

    Raises
    ------
    UsageError
        If there is nothing, or it is none of the kinds.
    DatasetError
        If it is broken or empty.
    """
    access = access or Access()
    if where.startswith(PREFIX):
        return open_dicomweb(where, progress, access)
    if "://" in where:
        return open_objects(where, progress, access)
    path = Path(where)
    if path.is_dir():
        directory = find_dicomdir(path)
        if directory is not None:
            return open_dicomdir(directory, progress, access)
        return open_folder(path, progress, access, table=table)
    if not path.is_file():
        raise UsageError("there is no such file or folder", where=path)
    return _open_file(path, progress, access)


def _open_file(path: Path, progress: Progress, access: Access) -> Listing:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return open_npz(path, progress)
    if has_archive_name(path.name):
        return open_archive(path, access)
    if path.name.upper() == "DICOMDIR" or is_dicomdir(path):
        return open_dicomdir(path, progress, access)
    if suffix in (".txt", ".csv", ".lst", ".list"):
        return open_list(path, progress, access)
    raise UsageError("is no source", where=path, mend=f"a source is {KINDS}")
