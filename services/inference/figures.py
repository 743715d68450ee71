"""The service's Prometheus figures; no label ever holds anything about a patient or a file."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Figures:
    """The figures of one application, in a registry of its own (two may live in one process)."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        # one more line per figure, which nobody asks for
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
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
            "hilum_scores_total", "Images scored, by verdict.", ["verdict"], registry=self.registry
        )
        self.waiting = Gauge(
            "hilum_queue_length", "Images waiting for a thread.", registry=self.registry
        )
        self.held = Gauge(
            "hilum_held_bytes", "Bytes of request bodies held in memory.", registry=self.registry
        )
        self.ready = Gauge(
            "hilum_ready", "1 when the model is loaded and checked.", registry=self.registry
        )
        self.model_info = Gauge(
            "hilum_model_info",
            "Which model answers; always 1.",
            ["name", "version", "package_sha256", "contract_sha256", "runtime"],
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)
