"""Calibration: the error of finished runs before and after it, and what its rules do where the truth is known.

    python benchmarks/calibration/run.py                  simulated networks: what each way loses
    python benchmarks/calibration/run.py RUN [RUN ...]     finished runs, on their own test splits
    python benchmarks/calibration/run.py --demo            draws and trains the demo's cohort first

Runs are looked for where every command puts them ($MLFLOW_TRACKING_URI, or mlflow.db in the current
folder), their data sets where the run found them. Trains nothing but with --demo. One thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from policy import WAYS, coverage, policies  # noqa: E402
from prior import shifted  # noqa: E402
from timing import table  # noqa: E402

from data_schemas.card import Evaluation, Interval  # noqa: E402
from pipeline.evaluate.answers import answer_split  # noqa: E402
from pipeline.evaluate.measure import measure  # noqa: E402
from pipeline.ingest.store import open_dataset  # noqa: E402
from pipeline.model.package import open_package  # noqa: E402
from pipeline.tracking.finding import download, finished_run  # noqa: E402

HEAD = (
    "set",
    "images (patients)",
    "positive: calibration, test",
    "ECE before",
    "ECE after",
    "by chance",
    "change",
    "log-loss before, after",
    "ECE, prior estimated",
)


def rows_of(run_id: str, uri: str, scratch: Path) -> list[tuple[object, ...]]:
    """Return a row for each label of a finished run, measured on its test split."""
    folder = Path(finished_run(uri, run_id)["hilum.dataset_path"])
    dataset = open_dataset(folder)
    package = open_package(download(uri, run_id, "package", scratch / run_id))
    answers = answer_split(package, dataset, "test", lambda *_: None)
    found = measure(answers, dataset.info, package.sha256)
    name = dataset.info.name
    return [_row(name, label.label, found) for label in answers.labels]


def _row(name: str, label: str, found: Evaluation) -> tuple[object, ...]:
    own = {key.partition("/")[0]: one for key, one in found.statistics.items() if key.endswith(f"/{label}")}  # fmt: skip
    priors = {row.prior: row for row in found.prevalence if row.label == label}
    counts = np.array(found.confusion[label]).sum()
    moved, then = priors.get("estimated"), priors.get("as calibrated")
    here = own["prevalence"].value if "prevalence" in own else None
    return (
        f"{name}, {label}",
        f"{counts} ({found.patients})",
        f"{_share(then.prevalence if then else None)}, {_share(here)}",
        _text(own["ece_before"]),
        _text(own["ece"]),
        _text(own["ece_perfect"]),
        _text(own["ece_change"]),
        f"{_number(own['log_loss_before'].value)}, {_number(own['log_loss'].value)}",
        f"{_number(moved.ece)} at {_share(moved.prevalence)}" if moved else "",
    )


def _text(found: Interval) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "undefined"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def demo(folder: Path, uri: str) -> str:
    """Draw and train the demo's cohort in ``folder``; return the run's id."""
    command = [sys.executable, "-m", "services.cli.main", "demo", "--out", str(folder), "--json"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return str(json.loads(done.stdout.splitlines()[-1])["run_id"])


def simulated() -> None:
    """Print what each way to calibrate loses, and how often the interval holds the true error."""
    print("Log-loss on new images above that of the true probabilities, x 1000:\n")
    rows = [row for spread in (0.5, 1.5) for row in policies((40, 80, 160), spread, 60)]
    print(table(("shift, s.d.", "calibration images", *WAYS), rows))
    print("\nCalibration error, 15 bins of equal mass, and its 95 % interval:\n")
    head = ("network", "images", "true error", "mean measured", "intervals that hold it")
    print(table(head, coverage((60, 250), 30)))
    file = ROOT.parent / "shared" / "data" / "medmnist" / "pneumoniamnist.npz"
    if not file.exists():
        print("\nneeds ../shared/data/medmnist/pneumoniamnist.npz for the prior's table")
        return
    print(
        "\nPneumoniaMNIST, 624 test images, logistic regression of pixels, threshold as frozen:\n"
    )
    head = ("prior", "prevalence", "ECE", "log-loss", "sensitivity", "specificity")
    rows = [
        (
            row.prior,
            f"{row.prevalence:.3f}",
            *map(_number, (row.ece, row.log_loss, row.sensitivity, row.specificity)),
        )
        for row in shifted(file, 0.625)
    ]
    print(table(head, rows))


def main() -> None:
    """Print the table that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--demo", action="store_true")
    options = parser.parse_args()
    if not options.runs and not options.demo:
        simulated()
        return
    uri = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row for run in options.runs for row in rows_of(run, uri, Path(scratch))]
        if options.demo:
            own = f"sqlite:///{scratch}/mlflow.db"
            rows += rows_of(demo(Path(scratch) / "demo", own), own, Path(scratch))
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
