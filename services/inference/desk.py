"""The one way from a request's images to scores: every route goes through here.

So each of them has the same queue, deadlines, receipts, figures and refusals.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from data_schemas.errors import BusyError
from data_schemas.score import Score
from pipeline.model.wanted import SCORE_ALONE, Wanted
from services.inference.body import Bodies, too_many
from services.inference.engine import Engine, Loaded
from services.inference.journal import Journal
from services.inference.patience import attended, deadline_of
from services.inference.problems import Refusal, refusal_of, status_of
from services.inference.settings import ServiceSettings
from services.inference.trees import tree_of

if TYPE_CHECKING:
    from services.inference.decoders import Decoded
    from services.inference.landing import Landed

Answer = TypeVar("Answer")

AGAIN_S = 0.02
"""How soon an image of a request that was let in asks for a thread again."""


class Desk:
    """Scores what came with a request; notes in the request's facts what became of it."""

    def __init__(
        self, engine: Engine, settings: ServiceSettings, bodies: Bodies, journal: Journal
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.bodies = bodies
        self._journal = journal
        self._parsing = asyncio.Semaphore(1)

    def deadline(self, request: Request) -> float:
        """Return until when the request may be answered; see :func:`deadline_of`."""
        return deadline_of(request, self.settings.answer_seconds)

    async def one(
        self, request: Request, data: "bytes | Landed", wanted: Wanted, deadline: float
    ) -> Score:
        """Score the only image of a request.

        Raises
        ------
        ImageError, BusyError, Refusal
            As :meth:`Engine.score`.
        """
        request.state.facts["bytes"] = len(data)
        work = self.engine.score(data, wanted, deadline=deadline)
        score = await attended(request, work, deadline)
        request.state.facts.update(verdict=score.verdict, version=score.model.version)
        return score

    async def every(
        self,
        request: Request,
        images: "Sequence[bytes | Landed | Decoded]",
        wanted: Wanted = SCORE_ALONE,
        *,
        deadline: float,
        of: Loaded | None = None,
    ) -> list[Score]:
        """Score several images that are answered together: one refused image refuses all.

        Raises
        ------
        Refusal
            The image's own, which says which image it is; ``TOO_MANY_IMAGES``.
        """
        answers = await self.each(request, images, wanted, deadline=deadline, of=of, whole=True)
        return [answer for answer in answers if isinstance(answer, Score)]

    async def each(
        self,
        request: Request,
        images: "Sequence[bytes | Landed | Decoded]",
        wanted: Wanted = SCORE_ALONE,
        *,
        deadline: float,
        of: Loaded | None = None,
        whole: bool = False,
    ) -> list[Score | Refusal]:
        """Score several images, all by one version of the model; answer each, in order.

        At most as many as there are threads are under way at once, so that one request with many
        images takes no more of the queue than as many clients as there are threads.

        Raises
        ------
        Refusal
            What the service as a whole can't do now: every 503.
        """
        if len(images) > self.settings.max_images:
            raise too_many(self.settings.max_images)
        owe = getattr(request.state, "owe", None)
        if owe is not None:
            owe(len(images) - 1)
        # the version is taken once, so that one answer doesn't mix two models
        of = of or self.loaded()
        request.state.facts.update(images=len(images), version=of.version)
        answers: list[Score | Refusal] = [_NO_ANSWER] * len(images)
        places = iter(range(len(images)))

        async def work() -> None:
            for place in places:
                try:
                    score = self._scored(images[place], wanted, deadline, of, waits=place > 0)
                    answers[place] = await score
                except Exception as error:  # noqa: BLE001 - an answer about this image, or all
                    name = f"Image {place + 1} of {len(images)}" if len(images) > 1 else ""
                    answers[place] = self._refused(request, error, name, whole=whole)

        await attended(request, _together(work, self._threads()), deadline)
        scores = [answer for answer in answers if isinstance(answer, Score)]
        request.state.facts["verdicts"] = dict(Counter(score.verdict for score in scores))
        codes = Counter(answer.code for answer in answers if isinstance(answer, Refusal))
        if codes:
            request.state.facts["codes"] = dict(codes)
        return answers

    async def tree(self, text: bytes, use: Callable[[dict[str, Any]], Answer]) -> Answer:
        """Parse a JSON object and return what ``use`` makes of it, in a thread.

        One body at a time is a tree, which is let go at the end: it needs a multiple of its text.

        Raises
        ------
        Refusal
            ``INVALID_REQUEST``; what ``use`` raises.
        """
        async with self._parsing:
            return await asyncio.to_thread(lambda: use(tree_of(text)))

    def loaded(self) -> Loaded:
        """Return the version that answers now.

        Raises
        ------
        Refusal
            ``NOT_READY``.
        """
        if self.engine.loaded is None or self.engine.pool is None:
            raise self.engine.not_ready()
        return self.engine.loaded

    def _threads(self) -> int:
        return self.engine.pool.threads if self.engine.pool is not None else 1

    async def _scored(
        self,
        image: "bytes | Landed | Decoded",
        wanted: Wanted,
        deadline: float,
        of: Loaded,
        *,
        waits: bool,
    ) -> Score:
        while True:
            try:
                return await self.engine.score(image, wanted, deadline=deadline, of=of)
            except BusyError:
                # the first image stands in line as any other request; the rest was let in with it
                if not waits:
                    raise
                await asyncio.sleep(AGAIN_S)

    def _refused(self, request: Request, error: Exception, name: str, *, whole: bool) -> Refusal:
        refusal = refusal_of(error)
        if status_of(refusal.code) == 503 or (whole and refusal.code == "FAULT"):
            try:
                raise error
            finally:
                del error  # a failure that its own frame holds would stay, and the images with it
        if whole:
            detail = f"{name}: {refusal.detail}" if name else refusal.detail
            raise Refusal(refusal.code, detail, refusal.hint) from error
        if refusal.code == "FAULT":
            self._journal.fault(error, request_id=request.state.request_id)
        return refusal


_NO_ANSWER = Refusal("FAULT", "No answer was made.")


async def _together(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run ``count`` of the same work side by side; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work()) for _ in range(count)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # what failed holds this frame: if it held the failure, the images would stay, too
        tasks.clear()
        del task
