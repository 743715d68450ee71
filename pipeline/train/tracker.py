"""What a run hears while it trains: progress at every step, metrics at every epoch."""

import time
from collections.abc import Callable

import psutil
import torch

from data_schemas.progress import Progress
from pipeline.tracking import runs
from pipeline.train.course import Course
from pipeline.train.headlines import headlines
from pipeline.train.loop import Metrics
from pipeline.train.task import Task

Say = Callable[[str], None]


class Tracker:
    """Listens to the loop: progress at every step, one request to MLflow at every epoch."""

    def __init__(self, run: runs.TrackedRun, task: Task, progress: Progress, say: Say) -> None:
        self._run, self._progress, self._say = run, progress, say
        self._head = task.head
        self._images = len(task.rows["train"])
        self._course = Course(task)
        self._started = self._trained = time.perf_counter()
        self._line = ""
        self._cost_s = self._cost_before = 0.0  # of this object, and of the sending thread
        self._heard = 0  # steps of this epoch that were trained here, not before a resume

    def __call__(self, epoch: int, step: int, metrics: Metrics | None) -> None:
        """Take note of a step, or of a finished epoch."""
        now = time.perf_counter()
        if metrics is None:
            self._trained = now
            self._heard += 1
            done = self._course.done(epoch, step)
            self._progress(done, self._course.total, f"epoch {epoch}{self._line}")
        else:
            self._end_epoch(epoch, metrics, now)
        self._cost_s += time.perf_counter() - now

    def _end_epoch(self, epoch: int, metrics: Metrics, now: float) -> None:
        trained_s = max(self._trained - self._started, 1e-9)
        metrics = dict(metrics)
        waited_s = metrics.pop("time/waited_s", 0.0)
        metrics |= {
            "time/epoch_s": now - self._started,
            "time/images_per_s": self._images * self._heard / self._course.steps(epoch) / trained_s,
            "time/loader_stall_pct": 100 * waited_s / trained_s,
            "time/tracking_pct": 100 * self._cost() / max(now - self._started, 1e-9),
            "mem/rss_mb": psutil.Process().memory_info().rss / 2**20,
        }
        if torch.cuda.is_available():
            metrics["mem/gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
        self._run.log_metrics(headlines(metrics, self._head), step=epoch)
        self._run.post()  # sent by a thread of its own: training doesn't wait for the store
        self._line = f", tune AUC {metrics['tune/auc']:.3f}"
        self._say(
            f"epoch {epoch}/{self._course.epochs}: train loss {metrics['train/loss']:.4f}, "
            f"tune loss {metrics['tune/loss']:.4f}, tune AUC {metrics['tune/auc']:.4f}, "
            f"{metrics['time/images_per_s']:.0f} images/s"
        )
        self._started, self._heard = time.perf_counter(), 0

    def _cost(self) -> float:
        """Return seconds since the last call spent here and, as processor time, by the sender."""
        cost = self._cost_s + self._run.busy_s
        since, self._cost_before = cost - self._cost_before, cost
        return since
