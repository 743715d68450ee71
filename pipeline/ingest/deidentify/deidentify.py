"""From a folder to a folder of clean copies: every file written, set aside or refused, and a log of it."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.contract import Limits
from data_schemas.errors import ImageError, UsageError
from data_schemas.files import replacing, sha256, write_bytes, write_text
from data_schemas.progress import Progress
from data_schemas.version import our_version
from pipeline.imaging.limits import check_file
from pipeline.imaging.sniff import format_of
from pipeline.ingest.deidentify.burned_in import (
    SUSPECTS,
    decoded,
    reason_to_set_aside,
    same_pixels,
)
from pipeline.ingest.deidentify.dicom import clean_object, suspicion
from pipeline.ingest.deidentify.photograph import clean_photograph
from pipeline.ingest.deidentify.profile import Choice
from pipeline.ingest.patients import pseudonym

INFO, LOG, ASIDE, JOURNAL = "deidentified.json", "deidentified.parquet", "set-aside.csv", ".journal"
WRITTEN, SET_ASIDE, REFUSED = "written", "set aside", "refused"


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
    status: str
    file: str = ""
    """Path below the output folder, of pseudonyms."""
    code: str = ""
    reason: str = ""


def deidentify(
    source: Path, out: Path, settings: Settings, *, key: bytes, progress: Progress
) -> list[Outcome]:
    """Write clean copies of the DICOM images and photographs of ``source`` into ``out``.

    Same key, same settings and same files give the same bytes. What an earlier run, even a killed
    one, has done is not done again.

    Parameters
    ----------
    source
        A file, or a folder of any depth. Hidden files don't count.
    key
        Key of the pseudonyms, the mapped UIDs and the moved dates.

    Raises
    ------
    UsageError
        If there are no files, or ``out`` lies inside ``source`` or holds something else.
    """
    files = _files(source, out)
    _open(out, settings, key)
    done = _done(out)
    outcomes: list[Outcome] = []
    with (out / JOURNAL).open("a", encoding="utf-8") as journal:
        for number, path in enumerate(files, start=1):
            outcome = _one(path, source, out, settings, key, done)
            if outcome.source_sha256 not in done:
                done[outcome.source_sha256] = outcome
                journal.write(json.dumps(asdict(outcome)) + "\n")
                journal.flush()
            outcomes.append(outcome)
            progress(number, len(files), "cleaning")
    _close(out, sorted(set(outcomes), key=lambda outcome: outcome.source_sha256))
    return outcomes


def counts(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """Return files by status, and by status and code."""
    codes = Counter(f"{o.status}: {o.code}" for o in outcomes if o.code)
    return {
        "files": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "codes": dict(sorted(codes.items())),
    }


def _files(source: Path, out: Path) -> list[Path]:
    if not source.exists():
        raise UsageError("there is no such file or folder", where=source)
    if source.is_file():
        return [source]
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError("lies inside the source folder", where=out, mend="write it elsewhere")
    found = sorted(_walk(source))
    if not found:
        raise UsageError("the folder holds no files", where=source)
    return found


def _walk(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path


def _open(out: Path, settings: Settings, key: bytes) -> None:
    """Mark the folder as ours, made in this way; refuse one that was made in another."""
    mark = {
        "schema_version": 1,
        "hilum_version": our_version(),
        "dates": settings.choice.dates,
        "retained": sorted(settings.choice.retain),
        "keep_burned_in": settings.keep_burned_in,
        "suspects": sorted(settings.suspects),
        "limits": settings.limits.model_dump(mode="json"),
        "key": pseudonym(key, "which key this folder was made with"),
    }
    text = json.dumps(mark, indent=2) + "\n"
    if out.exists() and not out.is_dir():
        raise UsageError("is a file; a folder is written here", where=out)
    if out.is_dir() and any(path.name != INFO for path in out.iterdir()):
        if not (out / INFO).is_file():
            raise UsageError("the folder is not empty", where=out, mend="choose another")
        if (out / INFO).read_text(encoding="utf-8") != text:
            raise UsageError(
                "the folder was made with another key, other options or another version",
                where=out,
                mend="choose another folder",
            )
        for part in out.rglob(".*.part"):  # of a run that was killed
            part.unlink()
    write_text(out / INFO, text)


def _done(out: Path) -> dict[str, Outcome]:
    """Return what earlier runs did: the log of a finished one, the journal of a killed one."""
    found: list[Outcome] = []
    if (out / LOG).is_file():
        found += [Outcome(**row) for row in pq.read_table(out / LOG).to_pylist()]
    if (out / JOURNAL).is_file():
        for line in (out / JOURNAL).read_text(encoding="utf-8").splitlines():
            try:
                found.append(Outcome(**json.loads(line)))
            except (ValueError, TypeError):  # the line that the end cut off
                continue
    return {o.source_sha256: o for o in found if not o.file or (out / o.file).is_file()}


def _one(
    path: Path, source: Path, out: Path, settings: Settings, key: bytes, done: dict[str, Outcome]
) -> Outcome:
    place = path.relative_to(source).as_posix() if source.is_dir() else path.name
    unread = pseudonym(key, f"unread:{place}")
    try:
        check_file(path.stat().st_size, settings.limits)
        data = path.read_bytes()
    except ImageError as error:
        return Outcome(unread, REFUSED, code=error.code, reason=error.what)
    except OSError:
        return Outcome(unread, REFUSED, code="CORRUPT", reason="the file can't be read")
    digest = sha256(data)
    if digest in done:
        return done[digest]
    folder = place.rpartition("/")[0]
    try:
        return _copy(data, digest, folder, out, settings, key)
    except ImageError as error:
        return Outcome(digest, REFUSED, code=error.code, reason=error.what)
    except MemoryError:
        reason = "cleaning the file needs more memory than there is"
        return Outcome(digest, REFUSED, code="TOO_LARGE", reason=reason)


def _copy(
    data: bytes, digest: str, folder: str, out: Path, settings: Settings, key: bytes
) -> Outcome:
    is_dicom = format_of(data) == "dicom"
    limits = settings.limits
    name = pseudonym(key, f"file:{digest}")
    if is_dicom:
        made = clean_object(data, key=key, choice=settings.choice, limits=limits, digest=digest)
        clean, file = made.data, f"{made.patient}/{made.study}/{made.series}/{name}.dcm"
    else:
        clean, ending = clean_photograph(data)
        file = f"photographs/{pseudonym(key, f'folder:{folder}')}/{name}{ending}"
    before = decoded(data, limits, several=is_dicom)
    same_pixels(before, decoded(clean, limits, several=is_dicom))
    reason = reason_to_set_aside(
        before, suspicion(data, limits) if is_dicom else None, settings.suspects
    )
    code = "BURNED_IN_TEXT" if reason else ""
    if reason and not settings.keep_burned_in:
        return Outcome(digest, SET_ASIDE, code=code, reason=reason)
    write_bytes(out / file, clean)
    return Outcome(digest, WRITTEN, file, code, reason)


def _close(out: Path, outcomes: list[Outcome]) -> None:
    columns = list(Outcome.__dataclass_fields__)
    table = pa.table(
        {name: pa.array([getattr(o, name) for o in outcomes], pa.string()) for name in columns}
    )
    with replacing(out / LOG) as part:
        pq.write_table(table, part)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["source_sha256", "code", "reason"])
    writer.writerows([o.source_sha256, o.code, o.reason] for o in outcomes if o.status == SET_ASIDE)
    write_text(out / ASIDE, stream.getvalue())
    (out / JOURNAL).unlink()
