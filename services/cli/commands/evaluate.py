"""Measure a run on the test split, through the run's own package, and log the figures to the run.

    hilum evaluate 3f2a9c... --dataset data/fundus

Without --dataset the data set is looked for where the run found it. Its content must be the one
that the run was trained on. Logged to the run: test/... metrics, four figures, the predictions
(pseudonyms only) and evaluation.json, which `hilum register` puts into the model's card.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import UsageError
from services.cli.console import Console

if TYPE_CHECKING:
    from data_schemas.card import Evaluation, Interval

DATASET_TAG = "hilum.dataset_path"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="id of a finished MLflow run")
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="the data set that the run was trained on"
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "tune", "calibration", "test", "external"),
        help="which images to measure on (default: test)",
    )
    parser.add_argument(
        "--prevalence",
        type=float,
        metavar="SHARE",
        help="share of positives where the model is to be used, if known: what probabilities "
        "corrected to it give is shown, too",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Evaluate and print the table."""
    from pipeline.evaluate.evaluate import evaluate_run
    from pipeline.tracking.finding import finished_run
    from services.cli.settings import tracking_uri

    uri = tracking_uri()
    tags = finished_run(uri, options.run)
    dataset = options.dataset or _noted_dataset(tags, options.run)
    evaluation = evaluate_run(
        options.run, dataset, uri, console.progress, options.split, options.prevalence
    )
    text = table(evaluation)
    if options.split == "test":
        text += f"\n\nnext: hilum register {options.run} --name NAME --alias champion"
    console.result(text, {"run": options.run, **evaluation.model_dump(mode="json")})
    return 0


def table(evaluation: "Evaluation") -> str:
    """Return the statistics as aligned lines, with intervals, counts and methods, then the notes."""
    rows = [("", "value", "95 % interval", "counts", "method")]
    for key, found in evaluation.statistics.items():
        rows.append((key, *_cells(found)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)] + [row[4]]
        ).rstrip()
        for row in rows
    ]
    head = f"{evaluation.split} split: {evaluation.images} images of {evaluation.patients} patients"
    notes = [f"note: {note}" for note in evaluation.notes]
    priors = _prior_lines(evaluation)
    return "\n".join([head, "", *lines, *priors, *([""] if notes else []), *notes])


def _prior_lines(evaluation: "Evaluation") -> list[str]:
    """Return the table of prior corrections."""
    if not evaluation.prevalence:
        return []
    rows: list[tuple[str, ...]]
    rows = [("prior correction", "prevalence", "ECE", "log-loss", "sensitivity", "specificity")]
    for row in evaluation.prevalence:
        values = (row.prevalence, row.ece, row.log_loss, row.sensitivity, row.specificity)
        cells = ["undefined" if value is None else f"{value:.3f}" for value in values]
        rows.append((f"{row.prior}/{row.label}", *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]


def _cells(found: "Interval") -> tuple[str, str, str, str]:
    value = "undefined" if found.value is None else f"{found.value:.3f}"
    interval = (
        "" if found.low is None or found.high is None else f"{found.low:.3f}-{found.high:.3f}"
    )
    counts = "" if found.numerator is None else f"{found.numerator}/{found.denominator}"
    return value, interval, counts, found.method


def _noted_dataset(tags: dict[str, str], run_id: str) -> Path:
    noted = tags.get(DATASET_TAG, "")
    if not noted or not Path(noted).is_dir():
        raise UsageError(
            f"the data set of run {run_id} is not where it was, or the run doesn't say where",
            mend=f"hilum evaluate {run_id} --dataset FOLDER",
        )
    return Path(noted)
