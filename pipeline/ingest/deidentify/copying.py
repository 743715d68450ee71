"""Makes the clean copy of one file, or says why not. Runs in worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_schemas.contract import Limits
from data_schemas.errors import ImageError
from data_schemas.files import sha256, write_bytes
from pipeline.imaging.limits import check_file
from pipeline.imaging.sniff import format_of
from pipeline.ingest.deidentify.burned_in import (
    SUSPECTS,
    compared,
    reason_to_set_aside,
)
from pipeline.ingest.deidentify.dicom import clean_object, suspicion
from pipeline.ingest.deidentify.photograph import clean_photograph
from pipeline.ingest.deidentify.profile import Choice
from pipeline.ingest.patients import place_key, pseudonym
from pipeline.ingest.records import SourceFile

WRITTEN, SET_ASIDE, REFUSED, KNOWN = "written", "set aside", "refused", "known"


@dataclass(frozen=True, slots=True)
class Settings:
    """How copies are made."""

    choice: Choice = field(default_factory=Choice)
    keep_burned_in: bool = False
    suspects: tuple[str, ...] = SUSPECTS
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file. Nothing in it identifies anybody."""

    source_sha256: str
    """Of the file's bytes; for a file that couldn't be read the keyed hash of its place."""
    status: str
    file: str = ""
    """Path below the output folder, of pseudonyms."""
    code: str = ""
    reason: str = ""


def clean_file(
    file: SourceFile, out: Path, settings: Settings, key: bytes, known: frozenset[str]
) -> Iterator[Outcome]:
    """Write the clean copy of one file below ``out``; always one outcome, never an exception.

    Parameters
    ----------
    known
        Digests of files that an earlier run has dealt with.
    """
    try:
        if file.size >= 0:
            check_file(file.size, settings.limits)
        data = file.fetch()
    except ImageError as error:
        yield Outcome(place_key(key, file.place), REFUSED, code=error.code, reason=error.what)
        return
    except Exception:  # noqa: BLE001 - a file system, an archive, a network: each has its own
        reason = "the file can't be read from its storage"
        yield Outcome(place_key(key, file.place), REFUSED, code="UNREADABLE", reason=reason)
        return
    if isinstance(data, np.ndarray):
        digest = sha256(np.ascontiguousarray(data).data)
        yield Outcome(digest, REFUSED, code="WRONG_FORMAT", reason="an array holds no metadata")
        return
    digest = sha256(data)
    if digest in known:
        yield Outcome(digest, KNOWN)
        return
    try:
        yield _copied(data, digest, file.place.rpartition("/")[0], out, settings, key)
    except ImageError as error:
        yield Outcome(digest, REFUSED, code=error.code, reason=error.what)
    except MemoryError:
        reason = "cleaning the file needs more memory than the limit"
        yield Outcome(digest, REFUSED, code="DECODER_DIED", reason=reason)
    except OSError:  # the output can't be written: nothing of the source's fault
        raise
    except Exception as error:  # noqa: BLE001 - one bad file must not end the batch
        # the message may hold a piece of the header: the kind of fault is enough
        reason = f"the cleaner failed with {type(error).__name__}"
        yield Outcome(digest, REFUSED, code="CORRUPT", reason=reason)


def _copied(
    data: bytes, digest: str, folder: str, out: Path, settings: Settings, key: bytes
) -> Outcome:
    is_dicom = format_of(data) == "dicom"
    limits = settings.limits
    check_file(len(data), limits)
    name = pseudonym(key, f"file:{digest}")
    if is_dicom:
        made = clean_object(data, key=key, choice=settings.choice, limits=limits, digest=digest)
        clean, file = made.data, f"{made.patient}/{made.study}/{made.series}/{name}.dcm"
    else:
        clean, ending = clean_photograph(data)
        file = f"photographs/{pseudonym(key, f'folder:{folder}')}/{name}{ending}"
    said = suspicion(data, limits) if is_dicom else None
    reason = reason_to_set_aside(compared(data, clean, limits), said, settings.suspects)
    code = "BURNED_IN_TEXT" if reason else ""
    if reason and not settings.keep_burned_in:
        return Outcome(digest, SET_ASIDE, code=code, reason=reason)
    write_bytes(out / file, clean)
    return Outcome(digest, WRITTEN, file, code, reason)
