"""How long a request is worth working on: until its deadline, and while its client is there."""

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from services.inference.problems import Refusal

Answer = TypeVar("Answer")

HEADER = "x-request-timeout"
"""Seconds that the client will wait, counted from the arrival of the request's headers."""


def deadline_of(request: Request, longest_s: float) -> float:
    """Return until when the request may be answered, on the clock of ``time.monotonic``.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST`` if the header isn't a positive number of seconds.
    """
    text = request.headers.get(HEADER)
    seconds = longest_s
    if text is not None:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise Refusal("INVALID_REQUEST", "header X-Request-Timeout: expected seconds above 0")
    return time.monotonic() + min(seconds, longest_s)


async def attended(request: Request, work: Coroutine[Any, Any, Answer], deadline: float) -> Answer:
    """Return what ``work`` gives, unless the deadline comes or the client goes first: it is cancelled then.

    Call it when the body has been read: from there on the only message of a client is its leaving.

    Raises
    ------
    Refusal
        ``TOO_LATE`` or ``CLIENT_LEFT``.
    """
    limit = asyncio.timeout(max(0.0, deadline - time.monotonic()))
    leaving = asyncio.ensure_future(_left(request))
    waiting = True

    def left(_: object) -> None:
        # the client's leaving is a deadline that comes at once
        if waiting and not limit.expired():
            limit.reschedule(0.0)

    leaving.add_done_callback(left)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        if leaving.done():
            raise Refusal("CLIENT_LEFT", "The client left before the answer.") from None
        raise too_late() from None
    finally:
        waiting = False
        leaving.cancel()


def too_late(retry_after_s: int = 1) -> Refusal:
    """Return the refusal of a request whose time is over, or would be."""
    return Refusal(
        "TOO_LATE",
        "The time that this request may take is over; its image was not scored.",
        "wait longer (header X-Request-Timeout, at most the service's own limit), or send less",
        retry_after_s=retry_after_s,
    )


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
