"""Takes one file: fetch, decode, prepare. It ends as images or as a refusal. Runs in worker processes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.files import sha256
from pipeline.imaging.instance import Instance, Prepared
from pipeline.imaging.limits import check_file
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import from_array, instances
from pipeline.ingest.patients import place_key, pseudonym
from pipeline.ingest.records import Refusal, SourceFile, Taken
from pipeline.ingest.spool import Segment
from pipeline.ingest.thumbnail import thumbnail


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """A taken image and its pixels, on their way to the spool."""

    taken: Taken
    pixels: bytes
    """Empty: they are in the spool already, in ``taken.spool_row``."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The file's bytes were taken before, and needn't be decoded again."""

    source_sha256: str


Outcome = Image | Refusal | Seen


def take_file(
    file: SourceFile,
    contract: Contract,
    key: bytes,
    known: NDArray[np.bytes_] | None = None,
    spool: Path | None = None,
) -> Iterable[Outcome]:
    """Take every image of one file; always at least one outcome, never an exception.

    Raw identifiers become pseudonyms here and go no further.

    Parameters
    ----------
    known
        Digests of files that were taken before, as :func:`sorted_digests` returns them.
    spool
        Folder of the spool, if this process may write into it; else pixels are handed on.

    Returns
    -------
    Outcomes one at a time where a file may hold many images, else a tuple of the one.
    """
    outcomes = _outcomes(file, contract, key, known, spool)
    return outcomes if contract.accept.frames == "every" else tuple(outcomes)


def _outcomes(
    file: SourceFile,
    contract: Contract,
    key: bytes,
    known: NDArray[np.bytes_] | None,
    spool: Path | None,
) -> Iterator[Outcome]:
    place = place_key(key, file.place)
    try:
        if file.size >= 0:
            check_file(file.size, contract.limits)
        data = file.fetch()
    except ImageError as error:
        yield Refusal("", error.code, error.what, place_key=place)
        return
    except Exception:  # noqa: BLE001 - a file system, an archive, a network: each has its own
        reason = "the file can't be read from its storage"
        yield Refusal("", "CORRUPT", reason, place_key=place)
        return
    # only where it is needed: reading a sound file computes its digest, too
    digest = cache(partial(_digest, data))
    if known is not None and is_known(digest(), known):
        yield Seen(digest())
        return
    try:
        for frame, found in enumerate(_instances(data, contract)):
            if isinstance(found, ImageError):
                yield Refusal(digest(), found.code, found.what, frame, place)
            else:
                yield _spooled(_outcome(found, contract, key, file, place), spool)
    except ImageError as error:
        yield Refusal(digest(), error.code, error.what, place_key=place)
    except MemoryError:
        reason = "decoding needs more memory than the limit"
        yield Refusal(digest(), "DECODER_DIED", reason, place_key=place)
    except Exception as error:  # noqa: BLE001 - one bad file must not end the batch
        # the message may hold a piece of the header: the kind of fault is enough
        reason = f"the reader failed with {type(error).__name__}"
        yield Refusal(digest(), "CORRUPT", reason, place_key=place)


def digest_of(file: SourceFile) -> str:
    """Return the digest of a file whose decoder died; empty if it can't be read."""
    try:
        return _digest(file.fetch())
    except (OSError, ImageError):
        return ""


def sorted_digests(digests: Iterable[str]) -> NDArray[np.bytes_] | None:
    """Return digests as 32 bytes each, sorted, so that many of them fit into a worker; None if none."""
    packed = np.array([bytes.fromhex(digest) for digest in digests], "S32")
    return np.sort(packed) if len(packed) else None


def is_known(digest: str, known: NDArray[np.bytes_]) -> bool:
    """Tell whether a digest is one of those that :func:`sorted_digests` returned."""
    sought = np.array([bytes.fromhex(digest)], "S32")
    place = int(np.searchsorted(known, sought)[0])
    return place < len(known) and bool(known[place : place + 1] == sought)


def _instances(data: bytes | NDArray[Any], contract: Contract) -> Iterable[Instance | ImageError]:
    if isinstance(data, np.ndarray):
        return (from_array(data),)
    return instances(data, contract)


def _spooled(outcome: Outcome, spool: Path | None) -> Outcome:
    if spool is None or not isinstance(outcome, Image):
        return outcome
    try:
        row = _segment(spool).add(outcome.pixels)
    except OSError:  # a full disk: whoever waits for the pixels will meet it, too, and can tell
        return outcome
    return Image(replace(outcome.taken, spool_row=row, given=None), b"")


@cache
def _segment(spool: Path) -> Segment:
    # this process's own, for as long as it lives
    return Segment(spool)


def _digest(data: bytes | NDArray[Any]) -> str:
    return sha256(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)


def _outcome(
    instance: Instance, contract: Contract, key: bytes, file: SourceFile, place: str
) -> Outcome:
    try:
        prepared = prepare(instance, contract)
    except ImageError as error:
        digest = instance.source_sha256
        return Refusal(digest, error.code, error.what, instance.frame, place)
    if not prepared.quality.sufficient:
        return Refusal(
            instance.source_sha256,
            "UNGRADABLE",
            "; ".join(prepared.quality.reasons),
            frame=instance.frame,
            place_key=place,
            thumbnail=thumbnail(prepared.pixels),
        )
    pixels = prepared.pixels.tobytes()
    return Image(_taken(instance, prepared, sha256(pixels), key, file, place), pixels)


def _taken(
    instance: Instance,
    prepared: Prepared,
    pixel_sha256: str,
    key: bytes,
    file: SourceFile,
    place: str,
) -> Taken:
    return Taken(
        source_sha256=instance.source_sha256,
        frame=instance.frame,
        pixel_sha256=pixel_sha256,
        place_key=place,
        instance_key=_hashed(key, "instance:", instance.instance_key),
        patient=_hashed(key, "", instance.patient_key),
        site=_hashed(key, "site:", instance.site_key),
        laterality=instance.laterality,
        view=instance.view,
        device=instance.device,
        format=instance.format,
        modality=instance.modality,
        rows=instance.rows,
        columns=instance.columns,
        features=dict(prepared.quality.features),
        warnings=prepared.warnings,
        spool_row=-1,
        given=file.given,
        study=_hashed(key, "study:", instance.study_key),
    )


def _hashed(key: bytes, kind: str, text: str) -> str:
    return pseudonym(key, kind + text) if text else ""
