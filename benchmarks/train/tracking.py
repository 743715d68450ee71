"""What a run's listener costs a training step: the real one, on a real MLflow database."""

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

STEPS, EPOCHS = 37, 5
"""An epoch of PneumoniaMNIST's 4708 training images at batch 128; the shorter one of two cases."""
METRICS = {
    "train/loss": 0.5, "train/grad_norm": 1.0, "train/lr": 1e-3, "tune/auc": 0.9,
    "tune/loss": 0.4, "tune/accuracy": 0.8, "tune/brier": 0.2, "time/waited_s": 0.01,
}  # fmt: skip


@functools.cache
def ms_per_step() -> float:
    """Return CPU milliseconds per step, the epochs' requests to MLflow and all threads included."""
    images, batch = 128 * STEPS, 128
    plan = Plan(learning=Learning(batch=batch, epochs=EPOCHS + 1))
    head = SimpleNamespace(outputs=("one label",), primary="")
    task = SimpleNamespace(rows={"train": np.arange(images)}, plan=plan, head=head)
    with tempfile.TemporaryDirectory() as scratch:
        uri = f"sqlite:///{Path(scratch) / 'mlflow.db'}"
        with runs.tracked_run(uri, "speed", "speed", {}) as run:
            tracker = Tracker(run, task, progress.silent, lambda _line: None)
            started = 0.0
            for epoch in range(1, EPOCHS + 2):
                if epoch == 2:  # the first request also opens the database
                    started = time.process_time()
                for step in range(1, STEPS + 1):
                    tracker(epoch, step, None)
                tracker(epoch, STEPS, METRICS)
            run.flush()  # what the sending thread still has to do belongs to it
            return 1000 * (time.process_time() - started) / (EPOCHS * STEPS)
