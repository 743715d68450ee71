"""Scores one file in a worker process: fetch, read, prepare, run, decide. It always ends as one row."""

import base64
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import HilumError, ImageError, PackageError, UsageError
from data_schemas.files import sha256, write_bytes
from data_schemas.score import Score
from pipeline.batch.rows import FAULT, Row, refused, scored
from pipeline.imaging.limits import check_file
from pipeline.imaging.read import from_array
from pipeline.ingest.records import SourceFile
from pipeline.ingest.taking import is_known
from pipeline.model.kinds import kind_of
from pipeline.model.opening import Wish, open_runtime
from pipeline.model.package import Package, open_package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes, score_instance
from pipeline.model.sums import SUMS

NAME_DIGITS = 16


@dataclass(frozen=True)
class Model:
    """The model as a worker is told of it; hashed by identity of its digest."""

    folder: str
    """Where the package lies; on another machine ``files`` take its place."""
    sha256: str
    runtime: str
    """What the batch is scored by, as scores name it."""
    version: str
    """In the registry, or empty."""
    files: tuple[tuple[str, bytes], ...] = field(default=(), hash=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Seen:
    """The file's bytes were scored before, by an earlier process of this batch."""

    source_sha256: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Nothing can be scored here: the model can't be opened, and no file is to blame."""

    what: str


Outcome = Row | Seen | Stopped


def carried(package: Package) -> tuple[tuple[str, bytes], ...]:
    """Return a package's files, to be sent to machines that don't see its folder."""
    sums = (SUMS, (package.folder / SUMS).read_bytes())
    return (sums, *((name, package.read(name)) for name in package.digests))


def score_file(
    file: SourceFile,
    model: Model,
    evidence: Path | None = None,
    known: NDArray[np.bytes_] | None = None,
) -> tuple[Outcome]:
    """Score one file; never an exception.

    Parameters
    ----------
    file
        Where it is and how it is read.
    model
        Opened once in each process.
    evidence
        Folder for whole answers (JSON) and evidence pictures (PNG), or ``None``.
    known
        Digests of files that need not be scored again (``taking.sorted_digests``).
    """
    try:
        package, runtime = _opened(model)
    except HilumError as error:
        return (Stopped(str(error)),)
    fetched: list[bytes | NDArray[Any]] = []

    def digest() -> str | None:
        # only where it is needed: reading a sound file computes its digest, too
        return _digest(fetched[0]) if fetched else None

    try:
        if file.size >= 0:
            check_file(file.size, package.contract.limits)
        fetched.append(file.fetch())
        if known is not None and is_known(_digest(fetched[0]), known):
            return (Seen(_digest(fetched[0])),)
        return (scored(_score(package, runtime, fetched[0], model.version, evidence)),)
    except UsageError as error:
        return (Stopped(str(error)),)
    except Exception as error:  # noqa: BLE001 - one file must not end the batch
        return (refused(*_why(error, fetched=bool(fetched)), digest()),)


def _why(error: Exception, *, fetched: bool) -> tuple[str, str]:
    """Return code and reason of the refusal that an error means."""
    if isinstance(error, ImageError):
        return error.code, error.what
    if isinstance(error, MemoryError):
        return "DECODER_DIED", "decoding needs more memory than the limit"
    if not fetched:  # a file system, an archive, a network: each has its own errors
        return "UNREADABLE", "the file can't be read from its storage"
    if isinstance(error, HilumError):
        return FAULT, error.what
    # the message might hold what the file holds; the type doesn't
    return FAULT, f"a fault of hilum: {type(error).__name__}"


def _score(
    package: Package,
    runtime: Runtime,
    data: bytes | NDArray[Any],
    version: str,
    evidence: Path | None,
) -> Score:
    wanted = evidence is not None
    if isinstance(data, bytes):
        score = score_bytes(package, runtime, data, evidence=wanted, version=version)
    else:
        instance = from_array(data)
        score = score_instance(package, runtime, instance, evidence=wanted, version=version)
    if evidence is not None:
        try:
            _write_evidence(score, evidence)
        except OSError as error:
            what = f"can't be written: {error.strerror}"
            raise UsageError(what, where=error.filename or evidence) from error
    return score


@lru_cache(maxsize=1)
def _opened(model: Model) -> tuple[Package, Runtime]:
    if not model.files:
        return _checked(Path(model.folder), model)
    with tempfile.TemporaryDirectory(prefix="hilum-package-") as scratch:
        for name, data in model.files:
            (Path(scratch) / name).write_bytes(data)
        return _checked(Path(scratch), model)


def _checked(folder: Path, model: Model) -> tuple[Package, Runtime]:
    package = open_package(folder)
    if package.sha256 != model.sha256:
        raise PackageError("is no longer the package that this batch began with", where=folder)
    kind = kind_of(model.runtime)
    runtime = open_runtime(package, Wish(kind.runtime, kind.precision)).runtime
    if runtime.identity != model.runtime:
        raise PackageError(
            f"this machine would score by {runtime.identity}, the batch began with {model.runtime}",
            mend="install the same versions on all machines",
        )
    return package, runtime


def _digest(data: bytes | NDArray[Any]) -> str:
    return sha256(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)


def _write_evidence(score: Score, folder: Path) -> None:
    name = score.image.source_sha256[:NAME_DIGITS]
    for found in score.evidence:
        write_bytes(folder / f"{name}-{found.label}.png", base64.b64decode(found.overlay_png))
    # the pictures lie beside the answer; inside it they would be a third of a megabyte each
    lean = tuple(found.model_copy(update={"overlay_png": ""}) for found in score.evidence)
    score.model_copy(update={"evidence": lean}).write_json(folder / f"{name}.json")
