"""Object storage, and anything else fsspec knows: ``s3://bucket/prefix``, ``gs://``, ``az://``, ``file://``."""

from functools import partial
from typing import IO, Any
from urllib.parse import urlsplit

from data_schemas.errors import DatasetError, ImageError, UsageError
from data_schemas.progress import Progress
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.archive import has_archive_name, members
from pipeline.ingest.sources.listing import (
    Access,
    Listing,
    counted,
    finished,
    is_hidden,
    patiently,
    refused,
)

_REQUESTS = 16
_REFUSED = "`{}://` refuses one of --storage-option"
# waiting changes nothing about these
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImageError)


def open_objects(address: str, progress: Progress, access: Access) -> Listing:
    """List the objects below an address. The ETag, where there is one, is a file's state.

    Raises
    ------
    UsageError
        If the protocol is unknown or its package is missing, or the address holds a password.
    DatasetError
        If the storage can't be listed, or there is nothing below the address.
    """
    if "@" in (urlsplit(address).netloc or "") and ":" in urlsplit(address).netloc:
        raise UsageError(
            "an address must not hold a password", mend="give credentials in the environment"
        )
    files_of = _Storage(address, access)
    found = files_of.listed()
    hidden = 0
    files: list[SourceFile] = []
    remarks: list[str] = []
    for done, (place, path, details) in enumerate(found, start=1):
        if is_hidden(place):
            hidden += 1
            continue
        some, said = files_of.files(place, path, details)
        files += some
        remarks += said
        progress(done, len(found), "listing")
    if not files:
        raise DatasetError("there are no objects", where=address)
    remarks += counted(hidden, "hidden object doesn't count", "hidden objects don't count")
    name = address.partition("://")[2].strip("/").rpartition("/")[2].partition(".")[0]
    return Listing(
        name=name or "objects",
        files=finished(files, access.most_bytes),
        remarks=tuple(remarks),
        requests=_REQUESTS,
    )


class _Storage:
    """An address with the file system that serves it."""

    def __init__(self, address: str, access: Access) -> None:
        self.address = address
        self.access = access
        self.protocol = address.partition("://")[0]
        self.system = file_system(self.protocol, access)
        self.root = str(self.system._strip_protocol(address))  # noqa: SLF001 - fsspec's own way to a path

    def listed(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (place, path, details) of every object, in order of places."""
        try:
            self.system.invalidate_cache()  # fsspec remembers listings for the process's life
            found = self.system.find(self.root, detail=True)
            self.system.invalidate_cache()
        except TypeError as error:  # some storage looks at its options only now
            raise UsageError(_REFUSED.format(self.protocol)) from error
        # every storage has its own errors, and wrong credentials have many
        except Exception as error:
            raise DatasetError(
                f"the storage can't be listed ({type(error).__name__})",
                where=self.address,
                mend="check address, credentials and --storage-option endpoint_url=...",
            ) from error
        base = self.root.rstrip("/") + "/"
        out = []
        for path, details in found.items():
            whole = str(path)
            place = whole.removeprefix(base) if whole != self.root else whole.rpartition("/")[2]
            # a key that ends in / stands for an empty folder
            if place and not place.endswith("/") and details.get("type", "file") == "file":
                out.append((place, whole, details))
        return sorted(out, key=lambda triple: triple[0])

    def files(
        self, place: str, path: str, details: dict[str, Any]
    ) -> tuple[list[SourceFile], tuple[str, ...]]:
        """Return one object as a file, or an archive's members."""
        size = int(details["size"]) if details.get("size") is not None else -1
        state = _state(details)
        if not has_archive_name(place):
            fetch = partial(read_object, self.protocol, self.access, path)
            return [SourceFile(place, fetch, size, state)], ()
        opened = partial(_open_object, self.protocol, self.access, path)
        try:
            return members(opened, f"{self.protocol}:{path}:{state}", f"{place}/")
        except ImageError as error:
            what = f"an archive is refused: {error.what}"
            return [refused(place, error.code, error.what)], (what,)
        except Exception:  # noqa: BLE001 - as above
            return [refused(place, "UNREADABLE", "the object can't be read from its storage")], ()


def file_system(protocol: str, access: Access) -> Any:
    """Return fsspec's file system for a protocol; the same one for the same options and process.

    Raises
    ------
    UsageError
        If fsspec or the protocol's package is missing, or an option is refused.
    """
    try:
        import fsspec

        return fsspec.filesystem(protocol, **dict(access.storage))
    except ImportError as error:
        raise UsageError(
            f"`{protocol}://` needs a package that is not installed",
            mend="pip install 'hilum[sources]', for other storage fsspec's package for it",
        ) from error
    except ValueError as error:
        raise UsageError(f"fsspec knows no `{protocol}://`") from error
    except TypeError as error:
        raise UsageError(_REFUSED.format(protocol)) from error


def read_object(protocol: str, access: Access, path: str) -> bytes:
    """Read an object whole; what may pass by waiting is tried again.

    Raises
    ------
    ImageError
        UNREADABLE, if it vanished since it was listed, or the storage doesn't give it.
    """
    system = file_system(protocol, access)
    try:
        data: bytes = patiently(partial(system.cat_file, path), access.attempts, final=_FINAL)
    except FileNotFoundError as error:
        raise ImageError("UNREADABLE", "the object vanished after it was listed") from error
    except PermissionError as error:
        raise ImageError("UNREADABLE", "the storage doesn't allow to read the object") from error
    except Exception as error:  # every storage has its own errors
        what = f"the storage doesn't give the object ({type(error).__name__})"
        raise ImageError("UNREADABLE", what) from error
    return data


def _open_object(protocol: str, access: Access, path: str) -> IO[bytes]:
    stream: IO[bytes] = file_system(protocol, access).open(path, "rb")
    return stream


def _state(details: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created"):
        if details.get(name):
            return f"{str(details[name]).strip(chr(34))}-{details.get('size')}"
    return ""
