"""Takes candidates one by one, in parallel and in order: each ends as an image or a refusal."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.files import sha256
from data_schemas.terms import Format, Laterality
from pipeline.imaging.instance import Instance
from pipeline.imaging.prepare import prepare
from pipeline.ingest.candidates import Candidate

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that was not taken, and why."""

    source_sha256: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, repr=False)
class Taken:
    """A prepared image with what the manifest says about it. ``patient`` is raw, "" if unknown."""

    candidate: Candidate
    pixels: bytes
    pixel_sha256: str
    patient: str
    laterality: Laterality
    format: Format
    modality: str
    rows: int
    columns: int
    warnings: tuple[str, ...]


def take(candidate: Candidate, contract: Contract) -> Taken | Refusal:
    """Read and prepare one candidate. What is wrong with the file comes before a missing label."""
    digest = candidate.source_sha256
    try:
        instance = candidate.read(contract)
        prepared = prepare(instance, contract)
    except ImageError as error:
        return Refusal(digest, error.code, error.what)
    except OSError:
        return Refusal(digest, "CORRUPT", "the file can't be read from its storage")
    if candidate.labels is None:
        return Refusal(digest, "NO_LABEL", "the label table has no row for this file")
    if None in candidate.labels:
        return Refusal(digest, "NO_LABEL", "a label of this file is empty in the table")
    if not prepared.quality.sufficient:
        return Refusal(digest, "UNGRADABLE", "; ".join(prepared.quality.reasons))
    laterality, remarks = _side(candidate, instance)
    pixels = prepared.pixels.tobytes()
    return Taken(
        candidate=candidate,
        pixels=pixels,
        pixel_sha256=sha256(pixels),
        patient=candidate.patient or instance.patient_key,
        laterality=laterality,
        format=instance.format,
        modality=instance.modality,
        rows=instance.rows,
        columns=instance.columns,
        warnings=(*prepared.warnings, *remarks),
    )


def _side(candidate: Candidate, instance: Instance) -> tuple[Laterality, tuple[str, ...]]:
    # a person wrote the table for these images; the header comes second, but a difference is told
    table, header = candidate.laterality, instance.laterality
    if table == "U":
        return header, ()
    if header not in ("U", table):
        return table, (f"laterality {table} in the table, {header} in the header",)
    return table, ()


def in_order(things: Sequence[In], function: Callable[[In], Out]) -> Iterator[Out]:
    """Yield ``function(thing)`` in the order of ``things``, some of them computed ahead in threads.

    Decoders let go of the interpreter's lock. Only a few results wait at a time, so that memory
    doesn't grow with the folder.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) >= 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
