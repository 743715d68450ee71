"""The model behind the service: loaded and checked in a thread while the port is already open."""

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Literal

from data_schemas.score import Score
from pipeline.model.package import Package
from services.inference.cores import available_cores
from services.inference.figures import Figures
from services.inference.journal import Journal
from services.inference.pool import Pool
from services.inference.problems import Refusal
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from pipeline.model.runtime import Runtime

State = Literal["starting", "ready", "failed", "stopping"]


class Engine:
    """One package, one runtime session, one pool of threads that call it.

    The session itself uses one thread per call: several single-image streams beat one call on
    several threads, whose spinning also starves its neighbours on a shared machine.
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
        self.runtime: Runtime | None = None
        self.pool = Pool(settings.threads or available_cores(), settings.queue, figures)
        self._figures = figures
        self._journal = journal

    def start(self) -> None:
        """Load and check the model in a thread; the state says when and how it ended."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    async def stop(self) -> None:
        """Turn unready and wait for the images under way."""
        self.state, self.reason = "stopping", "the service is shutting down"
        self._figures.ready.set(0)
        await asyncio.to_thread(self.pool.close)

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
        runtime = self.runtime
        if runtime is None or self.state != "ready":
            raise Refusal("NOT_READY", f"No scores now: {self.reason}.", retry_after_s=1)
        return await self.pool.run(lambda: self._score(runtime, data, evidence))

    def _score(self, runtime: "Runtime", data: bytes, evidence: bool) -> Score:
        from pipeline.model.scoring import score_bytes

        return score_bytes(self.package, runtime, data, evidence=evidence, version=self.version)

    def _load(self) -> None:
        began = time.perf_counter()
        try:
            # the decoders, too, are imported here and not by the first patient's image
            import pipeline.model.scoring
            from pipeline.model.runtime import Runtime, check

            runtime = Runtime(self.package, threads=1)
            difference = check(self.package, runtime)
        except Exception as error:  # noqa: BLE001 - whatever it is, the service must say "failed"
            self.state, self.reason = "failed", "the model could not be loaded or checked"
            self._journal.fault(error, during="loading")
            return
        self.runtime = runtime
        card = self.package.card
        self._figures.model_info.labels(
            card.name,
            self.version,
            self.package.sha256,
            card.contract_sha256,
            runtime.identity,
        ).set(1)
        self._figures.ready.set(1)
        self.state, self.reason = "ready", ""
        self._journal.write(
            "ready",
            model=card.name,
            package=self.package.sha256,
            runtime=runtime.identity,
            threads=self.pool.threads,
            largest_difference=difference,
            seconds=round(time.perf_counter() - began, 3),
        )
