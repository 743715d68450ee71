"""The model behind the service: loaded and checked in a thread while the port is already open."""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from data_schemas.score import Score
from pipeline.model.package import Package
from services.inference.figures import Figures
from services.inference.journal import Journal
from services.inference.pool import Pool
from services.inference.problems import Refusal
from services.inference.receipts import open_receipts, with_receipt
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from pipeline.model.runtime import Runtime

State = Literal["starting", "ready", "failed", "stopping"]

TOLERANCE = 1e-4
"""Largest allowed |logit here - logit at export| over the package's verification images."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What scoring needs: a session that several threads may call, and the threads."""

    runtime: "Runtime"
    pool: Pool


class Engine:
    """One package, one runtime session, one pool of threads that call it.

    The session uses one thread per call: several single-image streams beat one call on several
    threads, whose waiting also starves the neighbours on a shared machine.
    """

    def __init__(
        self,
        package: Package,
        settings: ServiceSettings,
        version: str,
        figures: Figures,
        journal: Journal,
    ) -> None:
        self.package = package
        self.version = version
        self.state: State = "starting"
        self.reason = "the model is being loaded and checked"
        self.loaded: Loaded | None = None
        self._settings = settings
        self._figures = figures
        self._journal = journal
        self.receipts = open_receipts(settings, journal)

    def start(self) -> None:
        """Load and check the model in a thread; the state says when and how it ended."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    async def stop(self) -> None:
        """Turn unready and wait for the images under way."""
        self.state, self.reason = "stopping", "the service is shutting down"
        self._figures.ready.set(0)
        if self.loaded is not None:
            await asyncio.to_thread(self.loaded.pool.close)
        if self.receipts is not None:
            self.receipts.close()

    async def score(self, data: bytes, *, evidence: bool) -> Score:
        """Score one file's bytes in the pool.

        Raises
        ------
        ImageError
            If the bytes don't become an image under the contract.
        BusyError
            If the queue is full.
        Refusal
            ``NOT_READY`` before the model is loaded and checked, or if its check failed.
        """
        loaded = self.loaded
        if loaded is None:
            raise self.not_ready()
        from pipeline.model.scoring import score_bytes

        if self.receipts is not None and self.receipts.failing:
            await asyncio.to_thread(self.receipts.check)
        score = await loaded.pool.run(
            lambda: score_bytes(
                self.package, loaded.runtime, data, evidence=evidence, version=self.version
            )
        )
        if self.receipts is None:
            return score
        # in a thread of its own: while the disk flushes, the scoring thread has the next image
        return await asyncio.to_thread(with_receipt, self.receipts, score)

    def not_ready(self) -> Refusal:
        """Return the refusal that says why there are no scores now."""
        return Refusal("NOT_READY", f"No scores now: {self.reason}.", retry_after_s=1)

    def _load(self) -> None:
        began = time.perf_counter()
        try:
            from pipeline.model.cores import available_cores
            from pipeline.model.runtime import Runtime, largest_difference

            self._warm_decoders()
            runtime = Runtime(self.package, threads=1)
            difference = largest_difference(self.package, runtime)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service must say "failed"
            self._fail("the model could not be loaded", error)
            return
        if not difference <= TOLERANCE:
            self._fail(
                f"the verification images give logits {difference:.2g} away from the stored ones,"
                f" {TOLERANCE:.0e} is allowed"
            )
            return
        threads = self._settings.threads or available_cores()
        self.loaded = Loaded(runtime, Pool(threads, self._settings.queue, self._figures))
        self.state, self.reason = "ready", ""
        self._tell_ready(runtime, threads, difference, time.perf_counter() - began)

    @staticmethod
    def _warm_decoders() -> None:
        # so that they are imported now and not while the first patient's image waits
        import pydicom  # noqa: F401

        import pipeline.imaging.read
        import pipeline.model.scoring  # noqa: F401

    def _fail(self, reason: str, error: Exception | None = None) -> None:
        self.state, self.reason = "failed", reason
        if error is None:
            self._journal.write("failed", level="error", reason=reason)
        else:
            # no image is involved yet: here, unlike later, the message may be told
            self._journal.fault(error, reason=reason, message=str(error))

    def _tell_ready(
        self, runtime: "Runtime", threads: int, difference: float, seconds: float
    ) -> None:
        card = self.package.card
        labels = (
            card.name,
            self.version,
            self.package.sha256,
            card.contract_sha256,
            runtime.identity,
        )
        self._figures.model_info.labels(*labels).set(1)
        self._figures.ready.set(1)
        self._journal.write(
            "ready",
            model=card.name,
            package=self.package.sha256,
            runtime=runtime.identity,
            threads=threads,
            largest_difference=difference,
            seconds=round(seconds, 3),
        )
