"""Evaluates a run: scores a split through the run's own package, logs figures and tables to the run."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.card import Evaluation
from data_schemas.errors import UsageError
from data_schemas.files import replacing
from data_schemas.progress import Progress
from data_schemas.terms import SPLITS, Split
from pipeline.evaluate.answers import SplitAnswers, answer_split
from pipeline.evaluate.figures import all_figures
from pipeline.evaluate.log_review import log_review
from pipeline.evaluate.measure import measure
from pipeline.ingest.leaks.examine import kept_report
from pipeline.ingest.store import Dataset, open_dataset
from pipeline.model.package import open_package
from pipeline.tracking.runs import continued_run

PREDICTIONS_VERSION = "1"
WITH_LIMITS = ("auc", "sensitivity", "specificity", "ece")
SHOWN = (*WITH_LIMITS, "accuracy", "brier", "kappa", "ece_before", "indeterminate", "risk")
"""Figures that become metrics of the run."""


def evaluate_run(
    run_id: str,
    data: Path | Dataset,
    tracking_uri: str,
    progress: Progress,
    split: Split = "test",
    prevalence: float | None = None,
) -> Evaluation:
    """Measure the package of a run on one split, and log the result to the same run.

    Logged: metrics ``SPLIT/...`` at step 0, four figures, ``predictions.parquet`` and, last,
    ``evaluation.json`` (``evaluation-SPLIT.json`` for another split than test). ``data`` is the
    folder of a data set, or one that is open: a fold of a cross-validation is nowhere on disk.
    ``prevalence`` is the primary label's where the model is to be used, if that is known: what
    probabilities corrected to it give is shown beside the others.

    Raises
    ------
    UsageError
        If there is no such split.
    DatasetError
        If the data set isn't the one that the run was trained on, or the split is empty.
    PackageError, TrackingError
        If the run has no sound package, or MLflow can't be used.
    """
    if split not in SPLITS:
        raise UsageError(f"`{split}` is not a split", mend=f"splits: {', '.join(SPLITS)}")
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"a prevalence lies between 0 and 1, got {prevalence:g}")
    with (
        tempfile.TemporaryDirectory() as scratch,
        continued_run(tracking_uri, run_id) as run,
    ):
        package = open_package(run.download("package", Path(scratch) / "run"))
        dataset = data if isinstance(data, Dataset) else open_dataset(data)
        answers = answer_split(package, dataset, split, progress)
        copies = copies_in(dataset, answers)
        evaluation = measure(answers, dataset.info, package.sha256, copies, prevalence)
        run.log_dataset(dataset.info, split, evaluation.images)
        metrics = metrics_of(evaluation, answers.primary)
        run.log_metrics(metrics, step=0)
        run.flush()
        figures = all_figures(answers, evaluation)
        for name, figure in figures.items():
            run.log_figure(figure, f"figures/{_named(name, split)}.png")
        if split == "test":
            log_review(run, package, dataset, answers, evaluation, figures, metrics)
        tables = Path(scratch) / "tables"
        write_predictions(answers, dataset, tables / f"{_named('predictions', split)}.parquet")
        run.log_files(tables, "evaluation")
        # last: whoever finds it finds the rest, too
        run.log_json(evaluation.model_dump(mode="json"), f"{_named('evaluation', split)}.json")
    return evaluation


def metrics_of(evaluation: Evaluation, primary: str) -> dict[str, float]:
    """Return the names and values for MLflow.

    Only the primary label's, without its name: ``test/auc``, ``test/auc_lo``, ``test/auc_hi``. An
    MLflow page of more than some sixty names is read by nobody; other labels' figures stand in the
    table ``eval/classes.json``, all of them in ``evaluation.json``. What is undefined is counted.
    """
    found: dict[str, float] = {"images": evaluation.images, "patients": evaluation.patients}
    undefined = 0
    for row in evaluation.prevalence:
        if row.label == primary and row.prior != "as calibrated" and row.ece is not None:
            found |= {f"ece_{row.prior}_prevalence": row.ece}
            found |= {f"{row.prior}_prevalence": row.prevalence}
    for key, interval in evaluation.statistics.items():
        what, _, label = key.partition("/")
        undefined += interval.value is None
        if label not in (primary, "official") or what not in SHOWN or interval.value is None:
            continue
        name = what if label == primary else f"{what}_{label}"
        found[name] = interval.value
        bounded = what in WITH_LIMITS and label == primary
        if bounded and interval.low is not None and interval.high is not None:
            found |= {f"{name}_lo": interval.low, f"{name}_hi": interval.high}
    found["undefined"] = undefined
    return {f"{evaluation.split}/{name}": value for name, value in found.items()}


def copies_in(dataset: Dataset, answers: SplitAnswers) -> NDArray[np.bool_] | None:
    """Return which images have copies in other splits, [N]; ``None`` if nobody has looked for any."""
    report = kept_report(dataset)
    if report is None:
        return None
    digests = dataset.manifest.column("source_sha256").to_pylist()
    copied = {
        digest
        for finding in report.findings
        if finding.kind in ("same_pixels", "near_duplicate")
        for digest in finding.source_sha256
    }
    return np.array([digests[k] in copied for k in answers.indices], np.bool_)


def write_predictions(answers: SplitAnswers, dataset: Dataset, path: Path) -> None:
    """Write one row per image: pseudonym, truth, logits, probabilities, verdict. No names, no paths.

    Where a label is not known, its truth, probability and answer are null.
    """
    source = dataset.manifest.column("source_sha256").take(pa.array(answers.indices))
    columns: dict[str, object] = {
        "source_sha256": source,
        "patient": pa.array(answers.patients.tolist()),
        "verdict": pa.array(answers.verdicts),
        "logits": pa.array(answers.logits.tolist(), pa.list_(pa.float32())),
    }
    size = answers.indices.size
    for label in answers.labels:
        unknown = np.ones(size, bool)
        unknown[label.rows] = False
        for name in ("truth", "probability", "answer"):
            own = getattr(label, name)
            values = np.zeros(size, own.dtype)
            values[label.rows] = own
            columns[f"{name}_{label.label}"] = pa.array(values, mask=unknown)
    table = pa.table(columns).replace_schema_metadata({"schema_version": PREDICTIONS_VERSION})
    with replacing(path) as part:
        pq.write_table(table, part)


def _named(name: str, split: Split) -> str:
    return name if split == "test" else f"{name}-{split}"
