"""Scores many files into one Parquet table: a row each, whatever happens, and nothing stops the rest."""

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.card import Card
from data_schemas.errors import HilumError, ImageError, UsageError
from data_schemas.files import replacing, sha256, write_bytes
from data_schemas.progress import Progress, silent
from data_schemas.score import Score
from pipeline.model.cores import available_cores
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes

SCORES_VERSION = 1
"""``schema_version`` in the metadata of the table."""

UNREADABLE = "UNREADABLE"
"""Refusal code of a file that the system doesn't let us read."""

FAULT = "FAULT"
"""Refusal code of a file on which our own code failed: a bug to report."""

ROWS_AT_ONCE = 512
NAME_DIGITS = 16


@dataclass(frozen=True, slots=True)
class _Row:
    """How one file ended: with a score, or with a code and a reason."""

    file: Path
    source_sha256: str | None
    score: Score | None = None
    code: str | None = None
    reason: str | None = None


def score_files(
    package: Package,
    files: Sequence[Path],
    out: Path,
    *,
    progress: Progress = silent,
    version: str = "",
    evidence: Path | None = None,
    threads: int = 0,
) -> dict[str, int]:
    """Score files side by side and write one row each, in the order given.

    Parameters
    ----------
    package
        The model.
    files
        What to score. Their paths stand in the table: whoever names them knows them.
    out
        The Parquet file; it appears whole, or not at all.
    progress
        Told after every file.
    version
        Of the model in the registry.
    evidence
        Folder for whole answers (JSON) and evidence pictures (PNG), or ``None``.
    threads
        Files at once; 0: the cores this process may use.

    Returns
    -------
    dict
        Verdict or refusal code -> files.

    Raises
    ------
    UsageError
        If ``out`` can't be written.
    """
    schema = table_schema(package.card)
    runtime = Runtime(package, threads=1)
    counts: Counter[str] = Counter()
    if out.is_dir():
        raise UsageError("is a folder, expected a Parquet file to write", where=out)

    def one(file: Path) -> _Row:
        return _one(package, runtime, file, version, evidence)

    try:
        with (
            replacing(out) as part,
            pq.ParquetWriter(part, schema) as writer,
            ThreadPoolExecutor(threads or available_cores()) as pool,
        ):
            rows = []
            for done, row in enumerate(_bounded(pool, one, files), start=1):
                counts[row.code or (row.score.verdict if row.score else FAULT)] += 1
                rows.append(_flat(row, package))
                if len(rows) == ROWS_AT_ONCE or done == len(files):
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
                progress(done, len(files), "scoring")
    except OSError as error:
        where = error.filename or out
        raise UsageError(f"can't be written: {error.strerror}", where=where) from error
    return dict(sorted(counts.items()))


def table_schema(card: Card) -> pa.Schema:
    """Return the columns of the scores table of one model."""
    fields = [
        ("file", pa.string()),
        ("source_sha256", pa.string()),
        ("verdict", pa.string()),
        ("refusal_code", pa.string()),
        ("refusal_reason", pa.string()),
        ("primary", pa.string()),
        ("threshold", pa.float64()),
    ]
    for output in card.outputs:
        fields += [
            (f"probability_{output.label}", pa.float64()),
            (f"state_{output.label}", pa.string()),
        ]
        if len(output.columns) > 1:
            names = range(len(output.classes))
            fields += [(f"probability_{output.label}_{k}", pa.float64()) for k in names]
    fields += [
        ("logits", pa.list_(pa.float32())),
        ("format", pa.string()),
        ("modality", pa.string()),
        ("laterality", pa.string()),
        ("rows", pa.int64()),
        ("columns", pa.int64()),
        ("quality", pa.string()),
        ("warnings", pa.string()),
        ("prepared_sha256", pa.string()),
        ("package_sha256", pa.string()),
        ("contract_sha256", pa.string()),
        ("model", pa.string()),
        ("model_version", pa.string()),
        ("runtime", pa.string()),
    ]
    return pa.schema(fields, metadata={"schema_version": str(SCORES_VERSION)})


def _one(
    package: Package, runtime: Runtime, file: Path, version: str, evidence: Path | None
) -> _Row:
    try:
        data = file.read_bytes()
    except OSError as error:
        return _Row(file, None, code=UNREADABLE, reason=f"the file can't be read: {error.strerror}")
    digest = sha256(data)
    try:
        score = score_bytes(package, runtime, data, evidence=evidence is not None, version=version)
    except ImageError as error:
        return _Row(file, digest, code=error.code, reason=error.what)
    except HilumError as error:
        return _Row(file, digest, code=FAULT, reason=error.what)
    except Exception as error:  # noqa: BLE001 - one file must not end the batch
        # the message might hold what the file holds; the type doesn't
        return _Row(file, digest, code=FAULT, reason=f"a fault of hilum: {type(error).__name__}")
    if evidence is not None:
        _write_evidence(score, evidence)
    return _Row(file, digest, score=score)


def _bounded(pool: ThreadPoolExecutor, one: Any, files: Sequence[Path]) -> Iterator[_Row]:
    """Yield results in order with few files in memory; ``pool.map`` would start them all."""
    waiting = iter(files)
    running = [pool.submit(one, file) for file in islice(waiting, 32)]
    while running:
        yield running.pop(0).result()
        running += [pool.submit(one, file) for file in islice(waiting, 1)]


def _write_evidence(score: Score, folder: Path) -> None:
    name = score.image.source_sha256[:NAME_DIGITS]
    for found in score.evidence:
        write_bytes(folder / f"{name}-{found.label}.png", base64.b64decode(found.overlay_png))
    # the pictures lie beside the answer; inside it they would be a third of a megabyte each
    lean = tuple(found.model_copy(update={"overlay_png": ""}) for found in score.evidence)
    score.model_copy(update={"evidence": lean}).write_json(folder / f"{name}.json")


def _flat(row: _Row, package: Package) -> dict[str, object]:
    flat: dict[str, object] = {
        "file": str(row.file),
        "source_sha256": row.source_sha256,
        "refusal_code": row.code,
        "refusal_reason": row.reason,
        "package_sha256": package.sha256,
        "contract_sha256": package.card.contract_sha256,
    }
    return flat if row.score is None else flat | _scored(row.score)


def _scored(score: Score) -> dict[str, object]:
    flat: dict[str, object] = {
        "verdict": score.verdict,
        "primary": score.primary,
        "threshold": score.threshold,
        "logits": list(score.logits),
        "format": score.image.format,
        "modality": score.image.modality,
        "laterality": score.image.laterality,
        "rows": score.image.rows,
        "columns": score.image.columns,
        "quality": "; ".join(score.quality.reasons) or "sufficient",
        "warnings": "; ".join(score.image.warnings),
        "prepared_sha256": score.image.prepared_sha256,
        "model": score.model.name,
        "model_version": score.model.version,
        "runtime": score.model.runtime,
    }
    for finding in score.findings:
        flat[f"probability_{finding.name}"] = finding.probability
        flat[f"state_{finding.name}"] = finding.state
    for label, classes in score.probabilities.items():
        for index, value in enumerate(classes.values()):
            # a binary label has no such column: the writer takes only those of the schema
            flat[f"probability_{label}_{index}"] = value
    return flat
