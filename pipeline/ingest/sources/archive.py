"""Members of zip and tar archives, listed at once and read one by one: nothing is unpacked to disk.

An archive is opened from a function that gives a seekable stream, so that one in object storage reads
like one in a folder. A zip's member is found by its number in the directory (names may repeat), a tar's
by its offset. A compressed tar can only be read forwards: its files keep their order, and every process
that reads on in this order decompresses it once.
"""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import IO, cast

from data_schemas.errors import ImageError
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.kept import kept
from pipeline.ingest.sources.listing import counted, is_hidden, refused

Opener = Callable[[], IO[bytes]]

_NAMES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_COMPRESSED = (_GZIP, _BZIP2, _XZ)
_BLOCK = 2**20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_NESTED = "an archive inside an archive is not opened: unpack the outer one once"
_ENCRYPTED = "the member is encrypted: unpack the archive with its password first"


def has_archive_name(name: str) -> bool:
    """Tell whether a file's name ends like a zip or tar archive's."""
    return name.lower().endswith(_NAMES)


def members(opened: Opener, key: str, prefix: str) -> tuple[list[SourceFile], tuple[str, ...]]:
    """List an archive's members that are files and not hidden.

    Parameters
    ----------
    opened
        Gives the archive as a seekable stream; can be pickled.
    key
        Names this state of the archive: equal keys may share an open stream.
    prefix
        What comes before the members' places.

    Raises
    ------
    ImageError
        If it can't be opened as an archive at all, or every member is encrypted.
    OSError
        If its storage fails.
    """
    with opened() as stream:
        head = stream.read(tarfile.BLOCKSIZE)
        if not _begins_a_tar(head) and zipfile.is_zipfile(stream):
            stream.seek(0)
            return _zip_members(stream, opened, key, prefix)
        if head[:2] == b"PK" and not _begins_a_tar(head):
            raise ImageError("TRUNCATED", "the zip archive ends before its directory")
        stream.seek(0)
        return _tar_members(stream, opened, key, prefix)


def _begins_a_tar(head: bytes) -> bool:
    """Tell a tar, compressed or not, by its head: at its end a zip's directory may stand, a member's."""
    if head.startswith(_COMPRESSED) or head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")  # older kinds: by the checksum
    except tarfile.TarError:
        return False
    return True


def _zip_members(
    stream: IO[bytes], opened: Opener, key: str, prefix: str
) -> tuple[list[SourceFile], tuple[str, ...]]:
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ImageError("CORRUPT", "the zip archive's directory is broken") from error
    bombs = _overlapping(infos)
    hidden = links = locked = 0
    files: list[SourceFile] = []
    for number, info in enumerate(infos):
        place = prefix + info.filename
        if info.is_dir():
            continue
        if is_hidden(info.filename):
            hidden += 1
        elif stat.S_ISLNK(info.external_attr >> 16):
            links += 1
        elif number in bombs:
            files.append(refused(place, "CORRUPT", "members of the archive overlap, as in a bomb"))
        elif info.flag_bits & 1:
            locked += 1
            files.append(refused(place, "UNREADABLE", _ENCRYPTED))
        elif has_archive_name(info.filename):
            files.append(refused(place, "NOT_AN_IMAGE", _NESTED))
        else:
            fetch = partial(read_zip_member, opened, key, number)
            files.append(SourceFile(place, fetch, info.file_size, f"{key}:{info.CRC:08x}"))
    if files and locked == len(files):
        raise ImageError(
            "UNREADABLE", "the archive is encrypted: unpack it with its password first"
        )
    return files, _remarks(hidden, links)


def _overlapping(infos: list[zipfile.ZipInfo]) -> set[int]:
    # Fifield, "A better zip bomb" (WOOT 2019): members that share compressed bytes
    order = sorted(range(len(infos)), key=lambda k: infos[k].header_offset)
    bombs: set[int] = set()
    end, last = 0, -1
    for number in order:
        info = infos[number]
        if info.header_offset < end:
            bombs |= {number, last}
        if info.header_offset + info.compress_size >= end:
            end, last = info.header_offset + info.compress_size, number
    return bombs


def read_zip_member(opened: Opener, key: str, number: int) -> bytes:
    """Read the member with this number in the directory.

    Raises
    ------
    ImageError
        UNREADABLE, NO_DECODER, TRUNCATED or CORRUPT.
    """
    try:
        with kept(("zip", key), partial(_kept_zip, opened)) as archive:
            info = archive.infolist()[number]
            with archive.open(info) as stream:
                # in blocks: what lies beyond the declared size is never decompressed
                return b"".join(iter(partial(stream.read, _BLOCK), b""))
    except NotImplementedError as error:
        raise ImageError("NO_DECODER", "the zip member's compression has no decoder") from error
    except EOFError as error:
        raise ImageError("TRUNCATED", "the zip member ends early") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise ImageError("CORRUPT", "the zip member doesn't fit its checksum") from error
    except (OSError, IndexError, RuntimeError, ValueError) as error:
        raise ImageError("UNREADABLE", "the archive can't be read from its storage") from error


def _kept_zip(opened: Opener, stack: ExitStack) -> zipfile.ZipFile:
    return stack.enter_context(zipfile.ZipFile(stack.enter_context(opened())))


def _kept_tar(opened: Opener, stack: ExitStack) -> IO[bytes]:
    stream = stack.enter_context(opened())
    return stack.enter_context(_plain(stream))


def _tar_members(
    stream: IO[bytes], opened: Opener, key: str, prefix: str
) -> tuple[list[SourceFile], tuple[str, ...]]:
    hidden = links = 0
    files: list[SourceFile] = []
    broken = ""
    plain = _plain(stream)
    try:
        with tarfile.open(fileobj=plain, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
                name = member.name.removeprefix("./")
                if member.islnk() or member.issym():
                    links += 1
                elif not member.isreg() and not member.issparse():
                    continue
                elif is_hidden(name):
                    hidden += 1
                else:
                    files.append(_tar_file(member, opened, key, prefix + name))
            if not _ended(plain, archive.offset):
                broken = "the tar archive is damaged: what follows the last good header is lost"
    except _BROKEN as error:
        if not files:
            raise ImageError("CORRUPT", "is no zip or tar archive, or is broken") from error
        broken = "the tar archive ends early: later members are lost"
    remarks = _remarks(hidden, links)
    if broken:
        # what could be listed is taken; the rest stands in the refusals, once
        files.append(refused(f"{prefix}(the rest)", "TRUNCATED", broken))
        remarks = (*remarks, broken)
    return files, remarks


def _tar_file(member: tarfile.TarInfo, opened: Opener, key: str, place: str) -> SourceFile:
    if member.issparse():
        return refused(place, "NO_DECODER", "a sparse member of a tar archive is not read")
    if has_archive_name(place):
        return refused(place, "NOT_AN_IMAGE", _NESTED)
    fetch = partial(read_tar_member, opened, key, member.offset_data, member.size)
    return SourceFile(place, fetch, member.size, f"{key}:{member.offset_data}")


def _ended(plain: IO[bytes], offset: int) -> bool:
    # tarfile takes any block that is no header for the end; the real one is zeros (POSIX ustar)
    plain.seek(offset)
    return not plain.read(512).strip(b"\0")


def _plain(stream: IO[bytes]) -> IO[bytes]:
    """Return the tar inside a stream, by its first bytes."""
    stream.seek(0)
    magic = stream.read(6)
    stream.seek(0)
    if magic.startswith(_GZIP):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if magic.startswith(_BZIP2):
        return cast(IO[bytes], bz2.BZ2File(stream))
    if magic == _XZ:
        return cast(IO[bytes], lzma.LZMAFile(stream))
    return stream


def read_tar_member(opened: Opener, key: str, offset: int, size: int) -> bytes:
    """Read ``size`` bytes at ``offset`` of the tar inside an archive.

    Raises
    ------
    ImageError
        UNREADABLE, TRUNCATED or CORRUPT.
    """
    try:
        with kept(("tar", key), partial(_kept_tar, opened)) as stream:
            stream.seek(offset)
            data: bytes = stream.read(size)
    except EOFError as error:
        raise ImageError("TRUNCATED", "the archive ends inside this member") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ImageError("CORRUPT", "the archive's compression is damaged here") from error
    except (OSError, ValueError) as error:
        raise ImageError("UNREADABLE", "the archive can't be read from its storage") from error
    if len(data) < size:
        raise ImageError("TRUNCATED", "the archive ends inside this member")
    return data


def _remarks(hidden: int, links: int) -> tuple[str, ...]:
    return (
        *counted(hidden, "hidden member doesn't count", "hidden members don't count"),
        *counted(links, "link in an archive is not followed", "links in archives aren't followed"),
    )
