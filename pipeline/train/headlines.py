"""Which figures become MLflow metrics: the headlines. What is said of each label stands in a table.

An MLflow page of more than some sixty names is read by nobody, and grows slow.
"""

import math
from collections.abc import Sequence

from pipeline.tracking import shown
from pipeline.tracking.runs import TrackedRun
from pipeline.train.labels import Head
from pipeline.train.loop import Metrics

CALIBRATION_TABLE = "tables/calibration_by_label.json"
TUNE_TABLE = "tables/tune_by_label.json"


def headlines(metrics: Metrics, head: Head) -> Metrics:
    """Return ``metrics`` without those of single labels; the primary's stand under the bare name.

    ``calibration/ece_dr`` becomes ``calibration/ece`` if ``dr`` is the primary label. A name that
    is taken, such as ``tune/auc``, the mean over labels, stays what it is.
    """
    kept: Metrics = {}
    own: Metrics = {}
    for name, value in metrics.items():
        stem, label = _parted(name, head)
        if not label:
            kept[name] = value
        elif label == head.primary:
            own[stem] = value
    return own | kept


def log_labels(
    run: TrackedRun, head: Head, calibration: Metrics, history: Sequence[Metrics]
) -> None:
    """Store what was measured of each label: at calibration, and on the tune split by epoch."""
    if len(head.outputs) < 2:
        return
    found = _by_label(calibration, head)
    names = sorted({name for own in found.values() for name in own})
    columns: dict[str, list[object]] = {"label": list(found)}
    for name in names:
        columns[name] = [_told(own.get(name)) for own in found.values()]
    by_epoch: dict[str, list[object]] = {"epoch": [], "label": [], "auc": []}
    for epoch, metrics in enumerate(history, 1):
        for label, own in _by_label(metrics, head).items():
            by_epoch["epoch"].append(epoch)
            by_epoch["label"].append(label)
            by_epoch["auc"].append(_told(own.get("auc")))
    shown.log_tables(run, {CALIBRATION_TABLE: columns, TUNE_TABLE: by_epoch})


def _by_label(metrics: Metrics, head: Head) -> dict[str, Metrics]:
    found: dict[str, Metrics] = {}
    for name, value in metrics.items():
        stem, label = _parted(name, head)
        if label:
            found.setdefault(label, {})[stem.partition("/")[2]] = value
    return found


def _parted(name: str, head: Head) -> tuple[str, str]:
    """Return a metric's name without its label, and the label: empty if it is of all."""
    if len(head.outputs) > 1:
        for label in sorted((output.label for output in head.outputs), key=len, reverse=True):
            if name.endswith(f"_{label}"):
                return name.removesuffix(f"_{label}"), label
    return name, ""


def _told(value: float | None) -> float | None:
    # JSON knows no NaN
    return None if value is None or not math.isfinite(value) else value
