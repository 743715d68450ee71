"""The model behind the service: loaded and checked in a thread while the port is open, and swapped in place."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_schemas.errors import HilumError
from data_schemas.score import Score
from pipeline.model.opening import CheckError, Opened, open_runtime
from pipeline.model.package import Package, open_package
from pipeline.model.wanted import SCORE_ALONE, Wanted
from services.inference.checking import decode_limits, wish_of, worker_count
from services.inference.figures import Figures
from services.inference.following import News, read_news
from services.inference.journal import Journal
from services.inference.patience import too_late
from services.inference.pool import Pool
from services.inference.problems import Refusal
from services.inference.receipts import open_receipts, with_receipt
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from pipeline.model.runtime import Scorer
    from services.inference.decoders import Breeding, Decoded, Decoding
    from services.inference.landing import Landed
    from services.inference.shadow import Shadow

State = Literal["starting", "ready", "failed", "stopping"]

NEWS_EVERY_S = 0.5
LOOKS_APART = 10
"""A champion that couldn't be taken is tried again after as many looks of the follower as it waits itself."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One version of the model, whole: an answer takes everything from one of these."""

    package: Package
    version: str
    runtime: "Scorer"


@dataclass(frozen=True, slots=True)
class Around:
    """What a worker has around its engine; nothing of it in an application of one process."""

    news: Path | None = None
    """Folder of the follower's news."""
    breeding: "Breeding | None" = None
    """Where decoder processes come from; ``None``: files are decoded in the scoring threads."""
    ready: Callable[[], None] = lambda: None
    """Called once the first model is loaded and checked."""
    hindered: Callable[[], None] = lambda: None
    """Called if it can't be loaded for a reason that may pass."""


class Engine:
    """One model at a time, one runtime session, one pool of threads that call it.

    On a CPU the session uses one thread per call: several single-image streams beat one call on
    several threads, whose waiting also starves the neighbours on a shared machine. On a GPU, or with
    ``batch``, images of several threads run together.
    """

    def __init__(
        self,
        package: Package,
        settings: ServiceSettings,
        version: str,
        figures: Figures,
        journal: Journal,
        around: Around = Around(),
    ) -> None:
        self.state: State = "starting"
        self.reason = "the model is being loaded and checked"
        self.loaded: Loaded | None = None
        self.pool: Pool | None = None
        self.news: News | None = None
        self.figures = figures
        self._first = (package, version)
        self._settings = settings
        self._journal = journal
        self.receipts = open_receipts(settings, journal)
        self._trusted = Path(settings.trusted_keys) if settings.trusted_keys else None
        self._around = around
        self._decoding: Decoding | None = None
        self._shadow: Shadow | None = None
        self._ending = threading.Event()
        self._together = False
        self._started = False

    @property
    def package(self) -> Package:
        """The package that answers now."""
        return self._first[0] if self.loaded is None else self.loaded.package

    @property
    def version(self) -> str:
        """Its version in the registry; empty for a package folder."""
        return self._first[1] if self.loaded is None else self.loaded.version

    def start(self) -> None:
        """Load and check the model in a thread; the state says when and how it ended.

        Once: an engine that is loading already goes on.
        """
        if self._started:
            return
        self._started = True
        threading.Thread(target=self._load, name="load", daemon=True).start()

    async def stop(self) -> None:
        """Turn unready and wait for the images under way."""
        self.state, self.reason = "stopping", "the service is shutting down"
        self.figures.ready.set(0)
        self._ending.set()
        if self.pool is not None:
            await asyncio.to_thread(self.pool.close)
        if self._shadow is not None:
            await asyncio.to_thread(self._shadow.close)
        if self._decoding is not None:
            await asyncio.to_thread(self._decoding.close)
        if self.receipts is not None:
            self.receipts.close()

    async def score(
        self,
        image: "bytes | Landed | Decoded",
        wanted: Wanted = SCORE_ALONE,
        *,
        deadline: float = float("inf"),
        of: Loaded | None = None,
    ) -> Score:
        """Score one file's bytes, or an image that came prepared, in the pool.

        ``deadline`` is on the clock of ``time.monotonic``. If the caller is cancelled, an image that
        waits is dropped, and one that was only decoded isn't run. ``of`` is the version that answers,
        for whoever asks about several images; ``None``: the latest.

        Raises
        ------
        ImageError
            If the bytes don't become an image under the contract.
        BusyError
            If the queue is full.
        Refusal
            ``NOT_READY`` before the model is loaded and checked, or if its check failed;
            ``TOO_LATE``.
        """
        pool = self.pool
        if self.loaded is None or pool is None or self._decoding is None:
            raise self.not_ready()
        if self.receipts is not None and self.receipts.failing:
            await asyncio.to_thread(self.receipts.check)
        left = threading.Event()
        try:
            score = await pool.run(
                lambda: self._score(image, wanted, of=of, deadline=deadline, left=left), deadline
            )
        except asyncio.CancelledError:
            left.set()
            raise
        if self.receipts is None:
            return score
        # in a thread of its own: while the disk flushes, the scoring thread has the next image
        with self.figures.stage("receipt"):
            return await asyncio.to_thread(with_receipt, self.receipts, score)

    def _score(
        self,
        image: "bytes | Landed | Decoded",
        wanted: Wanted,
        *,
        of: Loaded | None,
        deadline: float,
        left: threading.Event,
    ) -> Score:
        from pipeline.model.scoring import score_prepared
        from services.inference.decoders import Decoded

        # taken once: from here to the answer everything is of this version
        loaded, decoding = of or self.loaded, self._decoding
        assert loaded is not None  # noqa: S101 - for the type checker
        assert decoding is not None  # noqa: S101
        contract = loaded.package.contract
        found = (
            image
            if isinstance(image, Decoded)
            else decoding.decode(image, contract, seen=wanted.pictures)
        )
        if left.is_set() or time.monotonic() > deadline:
            raise too_late()
        shown = found.picture
        began = time.perf_counter()
        score = score_prepared(
            loaded.package,
            loaded.runtime,
            found.instance,
            found.prepared,
            replace(wanted, watch=self.figures.drift.note),
            seen=None if shown is None else lambda: shown,
            version=loaded.version,
        )
        self._note(score, found, began, time.perf_counter() - began)
        if self._shadow is not None:
            self._shadow.offer(loaded.package, found, score)
        return score

    def _note(self, score: Score, found: "Decoded", began: float, run_seconds: float) -> None:
        # where a process of its own decoded, its clock isn't ours: decoding ended where the run began
        prepared_at = began - found.prepare_seconds
        self.figures.took("decode", prepared_at - found.decode_seconds, found.decode_seconds)
        self.figures.took("prepare", prepared_at, found.prepare_seconds)
        self.figures.took("run", began, run_seconds)
        if score.logits and not self._together:
            self.figures.batch.observe(1)
        for reason in () if score.quality.sufficient else score.quality.reasons:
            self.figures.quality.labels(score.model.version, reason).inc()
        for finding in score.findings:
            if finding.probability is not None:
                labels = self.figures.probability.labels(score.model.version, finding.name)
                labels.observe(finding.probability)

    def not_ready(self) -> Refusal:
        """Return the refusal that says why there are no scores now."""
        return Refusal("NOT_READY", f"No scores now: {self.reason}.", retry_after_s=1)

    def _load(self) -> None:
        began = time.perf_counter()
        try:
            from pipeline.model.cores import available_cores

            package, version = self._latest()
            threads = self._settings.threads or max(
                1, available_cores() // worker_count(self._settings)
            )
            opened = self._opened(package, threads)
            self._warm_scoring()
            # last: decoders that wait idly import what reads DICOM
            self._decoding = self._open_decoding(threads)
            self._shadow = self._open_shadow()
        except Exception as error:  # noqa: BLE001 - whatever it is, the service must say "failed"
            self._fail(error)
            return
        # while a batch runs, the next one gathers
        at_once = max(threads, 2 * opened.runtime.batch) if opened.runtime.batch > 1 else threads
        self.pool = Pool(at_once, self._settings.queue, self.figures)
        self._take(Loaded(package, version, self._scorer(opened)))
        self.state, self.reason = "ready", ""
        self.figures.ready.set(1)
        self._around.ready()
        self._tell_ready(opened, threads, time.perf_counter() - began)
        self._follow()

    def _latest(self) -> tuple[Package, str]:
        """Return the package to start with: a worker that replaces another takes the latest champion."""
        self._hear()
        if self.news is None or self.news.version == self._first[1]:
            return self._first
        return open_package(Path(self.news.folder), trusted_keys=self._trusted), self.news.version

    def _opened(self, package: Package, streams: int) -> Opened:
        batch = self._settings.batch or None  # by rule
        return open_runtime(package, wish_of(self._settings), streams=streams, batch=batch)

    def _scorer(self, opened: Opened) -> "Scorer":
        runtime = opened.runtime
        self._together = runtime.batch > 1
        if not self._together:
            return runtime
        from services.inference.batches import Together

        return Together(runtime, self._settings.batch_ms / 1000, self.figures.batch.observe)

    def _open_decoding(self, threads: int) -> "Decoding":
        from services.inference.decoders import Apart, Here

        if self._around.breeding is None:
            return Here()

        def lost(code: str) -> None:
            self.figures.decoders_lost.labels(code).inc()
            self._journal.write("decoder_lost", level="warning", code=code)

        return Apart(self._around.breeding, threads, decode_limits(self._settings), lost)

    def _open_shadow(self) -> "Shadow | None":
        if not self._settings.shadow:
            return None
        from services.inference.shadow import open_shadow

        return open_shadow(self._settings, self.figures, self._journal)

    @staticmethod
    def _warm_scoring() -> None:
        # so that it is imported now and not while the first patient's image waits
        import pipeline.model.scoring  # noqa: F401

    def _hear(self) -> bool:
        """Read the follower's news; tell whether they are new."""
        if self._around.news is None:
            return False
        news = read_news(self._around.news)
        if news is None or news == self.news:
            return False
        self.news = news
        self.figures.registry_up.set(int(news.registry_up))
        self.figures.refused_model.set(int(bool(news.refused_version)))
        return True

    def _follow(self) -> None:
        """Take over each new champion, in the thread that loaded the first."""
        if self._around.news is None:
            return
        refused, again_at = "", 0.0
        while not self._ending.wait(NEWS_EVERY_S):
            self._hear()
            news = self.news
            if news is None or news.version == self.version:
                continue
            if news.version == refused and time.monotonic() < again_at:
                continue
            if not self._swap(news):
                # want of memory passes, a wrong package doesn't: tried again, but seldom
                refused = news.version
                again_at = time.monotonic() + LOOKS_APART * self._settings.follow_seconds

    def _swap(self, news: News) -> bool:
        began = time.perf_counter()
        pool = self.pool
        assert pool is not None  # noqa: S101 - for the type checker
        try:
            package = open_package(Path(news.folder), trusted_keys=self._trusted)
            # the verification set is also the warming: the first patient's image isn't the first run
            opened = self._opened(package, pool.threads)
        except Exception as error:  # noqa: BLE001 - the old model goes on, whatever it is
            self.figures.swaps.labels("refused").inc()
            self._journal.fault(error, reason="a new champion was refused", version=news.version)
            return False
        old = self.loaded
        self._take(Loaded(package, news.version, self._scorer(opened)))
        self.figures.swaps.labels("taken").inc()
        self._journal.write(
            "swapped",
            version=news.version,
            instead_of="" if old is None else old.version,
            package=package.sha256,
            **_told(opened),
            seconds=round(time.perf_counter() - began, 3),
        )
        return True

    def _take(self, loaded: Loaded) -> None:
        old, self.loaded = self.loaded, loaded
        if old is not None:
            self.figures.model_info.labels(*_labels(old)).set(0)
        self.figures.model_info.labels(*_labels(loaded)).set(1)
        window = -(-self._settings.drift_window // worker_count(self._settings))
        self.figures.drift.follow(loaded.version, loaded.package.reference, window)

    def _fail(self, error: Exception) -> None:
        self.state = "failed"
        if isinstance(error, CheckError):
            self.reason = error.what
            self._journal.write("failed", level="error", reason=self.reason)
        else:
            self.reason = "the model could not be loaded"
            # no image is involved yet: here, unlike later, the message may be told
            self._journal.fault(error, reason=self.reason, message=str(error))
        if not isinstance(error, HilumError):
            self._around.hindered()

    def _tell_ready(self, opened: Opened, threads: int, seconds: float) -> None:
        self._journal.write(
            "ready",
            model=self.package.card.name,
            package=self.package.sha256,
            **_told(opened),
            threads=threads,
            batch=opened.runtime.batch,
            seconds=round(seconds, 3),
        )


def _told(opened: Opened) -> dict[str, Any]:
    """Return what the log says of a runtime: its identity with the precision read back, and why no faster one."""
    return {
        "runtime": opened.runtime.identity,
        "largest_difference": opened.agreement.logit,
        "largest_probability_difference": opened.agreement.probability,
        "not_taken": list(opened.notes),
    }


def _labels(loaded: Loaded) -> tuple[str, ...]:
    card = loaded.package.card
    identity = loaded.runtime.identity
    return (card.name, loaded.version, loaded.package.sha256, card.contract_sha256, identity)
