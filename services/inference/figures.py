"""The service's Prometheus figures; no label ever holds anything about a patient or a file.

Workers keep them in memory-mapped files of one folder, so that any of them answers for all and the counts
of one that died are not lost. (The folder must be in the environment before this module is imported: the
command does that.)
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from services.inference.drift import Drift
from services.inference.traces import stage_span

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES = ("receive", "decode", "prepare", "run", "receipt", "answer")


class Figures:
    """The figures of one application, in a registry of its own (two may live in one process)."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        # one more line per figure, which nobody asks for
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        if not folder:
            ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "hilum_requests_total",
            "Requests answered.",
            ["route", "code"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "hilum_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "hilum_queue_seconds",
            "How long an image waited for a thread.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "hilum_refusals_total",
            "Images and requests refused, by the code of the problem body.",
            ["code"],
            registry=self.registry,
        )
        self.scores = Counter(
            "hilum_scores_total",
            "Images scored, by verdict and by the model's version in the registry.",
            ["verdict", "version"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "hilum_queue_length",
            "Images waiting for a thread.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.held = Gauge(
            "hilum_held_bytes",
            "Bytes of request bodies held in memory.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "hilum_ready",
            "1 when the model is loaded and checked.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.model_info = Gauge(
            "hilum_model_info",
            "Which model answers; always 1.",
            ["name", "version", "package_sha256", "contract_sha256", "runtime"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.stage_seconds = Histogram(
            "hilum_stage_seconds",
            f"Time of one image in each stage: {', '.join(STAGES)}.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        # looked up once: a label is a lock and a dictionary, six times an image
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        self.batch = Histogram(
            "hilum_batch_size",
            "Images in one run of the network.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.drift = Drift(self.registry)
        self.quality = Counter(
            "hilum_insufficient_quality_total",
            "Images that could not be judged, by the model's version and the reason.",
            ["version", "reason"],
            registry=self.registry,
        )
        self.probability = Histogram(
            "hilum_probability",
            "Calibrated probability of each finding, by the model's version.",
            ["version", "finding"],
            buckets=tuple(k / 10 for k in range(1, 11)),
            registry=self.registry,
        )
        self.decoders_lost = Counter(
            "hilum_decoders_lost_total",
            "Decoder processes that a file killed or that had to be stopped, by the refusal's code.",
            ["code"],
            registry=self.registry,
        )
        self.swaps = Counter(
            "hilum_model_swaps_total",
            "New champions that took over, and those that this worker refused.",
            ["outcome"],
            registry=self.registry,
        )
        self.registry_up = Gauge(
            "hilum_registry_up",
            "1 while the registry answers; 0 while the alias can't be looked up.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.refused_model = Gauge(
            "hilum_model_refused",
            "1 while the alias names a package that was refused; /v1/model says why.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.shadow = Counter(
            "hilum_shadow_total",
            "Images that the challenger saw, by what came out.",
            ["outcome"],
            registry=self.registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[], None]]:
        """Time a stage: until the block ends, or until what is yielded is called."""
        began, ended = time.perf_counter(), [0.0]

        def end() -> None:
            ended[0] = ended[0] or time.perf_counter()

        try:
            yield end
        finally:
            end()
            self.took(name, began, ended[0] - began)

    def took(self, stage: str, began: float, seconds: float) -> None:
        """Note a stage: when it began, on the clock of ``time.perf_counter``, and how long it took."""
        self._stages[stage].observe(seconds)
        stage_span(stage, began, seconds)

    def exposition(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        registry = self.registry
        if self._folder:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(_Told(registry, self.drift))


class _Told:
    """The figures as they are told: with what the windows of drift mean in their place."""

    def __init__(self, registry: CollectorRegistry, drift: Drift) -> None:
        self._registry = registry
        self._drift = drift

    def collect(self) -> Iterable[Metric]:
        return self._drift.told(self._registry.collect())


def forget_process(pid: int, folder: str) -> None:
    """Take a dead worker's gauges out; its counters stay."""
    if folder:
        mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def in_files(folder: str) -> bool:
    """Tell whether figures are kept in the files of ``folder``, as several workers need it."""
    return bool(folder) and Path(folder).is_dir() and values.ValueClass is not values.MutexValue
