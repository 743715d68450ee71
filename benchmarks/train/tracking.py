"""What a run's listener costs a training step: the real one, on a real MLflow database."""

import contextlib
import functools
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from data_schemas import progress
from data_schemas.plan import Learning, Plan
from pipeline.tracking import runs
from pipeline.train.tracker import Tracker

STEPS = 37
"""An epoch of PneumoniaMNIST's 4708 training images at batch 128."""
METRICS = {
    "train/loss": 0.5, "train/grad_norm": 1.0, "train/lr": 1e-3, "tune/auc": 0.9,
    "tune/loss": 0.4, "tune/accuracy": 0.8, "tune/brier": 0.2, "time/waited_s": 0.01,
}  # fmt: skip


@functools.cache
def ms_per_step(short: int = 2, long: int = 22) -> float:
    """Return CPU milliseconds per step, requests to MLflow and all threads included.

    A run's beginning and end are in both a short and a long run, so their difference is free of it.
    """
    spent = {}
    for epochs in (1, short, long):  # the first one also makes the database and imports MLflow
        started = time.process_time()
        _listen(epochs)
        spent[epochs] = time.process_time() - started
    return 1000 * (spent[long] - spent[short]) / ((long - short) * STEPS)


def _listen(epochs: int) -> None:
    """Let a tracker hear of so many epochs that take no time."""
    plan = Plan(learning=Learning(batch=128, epochs=epochs))
    head = SimpleNamespace(outputs=("one label",), primary="")
    task = SimpleNamespace(rows={"train": np.arange(128 * STEPS)}, plan=plan, head=head)
    with contextlib.ExitStack() as closing:
        scratch = closing.enter_context(tempfile.TemporaryDirectory())
        uri = f"sqlite:///{Path(scratch) / 'mlflow.db'}"
        run = closing.enter_context(runs.tracked_run(uri, "speed", "speed", {}))
        tracker = Tracker(run, task, progress.silent, lambda _line: None)
        for epoch in range(1, epochs + 1):
            for step in range(1, STEPS + 1):
                tracker(epoch, step, None)
            tracker(epoch, STEPS, METRICS)
            run.flush()  # an epoch's request each: none waits to be sent with the next one
