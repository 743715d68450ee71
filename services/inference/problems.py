"""Every error of the service as an RFC 9457 problem body: one table of codes, one builder."""

import re

from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Scope

from data_schemas.dataset import REFUSALS
from data_schemas.errors import OUTCOMES, BusyError, HilumError, ImageError

MEDIA_TYPE = "application/problem+json"

REFUSAL_STATUS: dict[str, int] = {"NOT_AN_IMAGE": 415, "WRONG_FORMAT": 415, "TOO_LARGE": 413}
"""Refusal code -> HTTP status, where it isn't the 422 of every other refusal (RFC 9110)."""

ONLY_INGESTED = {"DUPLICATE", "CONFLICTING_LABEL", "NO_LABEL", "UNGRADABLE"}
"""Refusals that belong to data sets; the service answers an ungradable photograph with a verdict."""

SERVICE_CODES: dict[str, tuple[int, str]] = {
    "EMPTY_BODY": (400, "the request has no body"),
    "BAD_MULTIPART": (400, "the multipart body isn't one or more files"),
    "INVALID_REQUEST": (422, "a parameter of the request is wrong"),
    "TOO_MANY_IMAGES": (413, "the request holds more images than the service takes at once"),
    "WRONG_MEDIA": (415, "this address doesn't take bodies of this media type or encoding"),
    "BODY_TOO_LARGE": (413, "the request body is larger than the service's limit"),
    "BODY_INCOMPLETE": (408, "the request body did not arrive whole in time"),
    "UNKNOWN_ROUTE": (404, "there is nothing at this address"),
    "UNKNOWN_MODEL": (404, "this service has no model of this name or version"),
    "WRONG_METHOD": (405, "this address doesn't take this method"),
    "NOT_READY": (503, "the model isn't loaded and checked yet, or failed its check"),
    "BUSY": (503, "all threads are working and the queue is full"),
    "RECEIPT_NOT_KEPT": (503, "the receipt of a score can't be written, so no score is answered"),
    "UNAUTHENTICATED": (401, "this service wants to know who asks, by an API key or a token"),
    "FORBIDDEN": (403, "this key or token isn't meant for this address"),
    "RATE_LIMITED": (429, "this key asks more often than it may"),
    "ISSUER_AWAY": (503, "the issuer of tokens can't be reached, so this token can't be checked"),
    "TOO_LATE": (503, "the answer would come after the request's own time was over"),
    "CLIENT_LEFT": (499, "the client went away before the answer; nobody reads this"),
    "FAULT": (500, "the service failed; the fault is in its log under this request id"),
}
"""Codes of the service itself -> HTTP status and meaning."""


class Problem(BaseModel):
    """A refusal or an error, after RFC 9457."""

    type: str = Field(description="where this kind of problem is explained")
    title: str = Field(description="what this kind of problem is, the same every time")
    status: int
    detail: str = Field(description="what is wrong with this request, in one or two sentences")
    instance: str = Field(description="urn:uuid: of this request, as in the service's log")
    code: str = Field(description="stable name of the problem, for programs")
    request_id: str
    hint: str | None = Field(default=None, description="how to mend it")
    error: str | None = Field(
        default=None, description="at addresses of the Open Inference Protocol: `detail` again"
    )


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """A request turned down, with a code of :data:`SERVICE_CODES` or of ``REFUSALS``."""

    def __init__(
        self,
        code: str,
        detail: str,
        hint: str | None = None,
        *,
        retry_after_s: int | None = None,
        allow: str | None = None,
        challenge: str | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.challenge = challenge


def known_codes() -> tuple[str, ...]:
    """Return every code that the service may answer."""
    return (*SERVICE_CODES, *(code for code in REFUSALS if code not in ONLY_INGESTED))


def status_of(code: str) -> int:
    """Return the HTTP status of a refusal or service code."""
    if code in SERVICE_CODES:
        return SERVICE_CODES[code][0]
    return REFUSAL_STATUS.get(code, OUTCOMES[ImageError].http)


def title_of(code: str) -> str:
    """Return the fixed sentence of a refusal or service code."""
    return SERVICE_CODES[code][1] if code in SERVICE_CODES else REFUSALS[code]


def refusal_of(error: Exception) -> Refusal:
    """Turn any exception into what a client may know of it.

    An ``ImageError`` and a ``UsageError`` speak about the request and are passed on; every other
    fault is the service's own, and its text stays in the log.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ImageError):
        return Refusal(error.code, _sentence(error), error.mend)
    if isinstance(error, BusyError):
        return Refusal("BUSY", error.what, error.mend, retry_after_s=error.retry_after_s)
    if isinstance(error, HilumError):
        kind = next(kind for kind in type(error).__mro__ if kind in OUTCOMES)
        if 400 <= OUTCOMES[kind].http < 500:
            return Refusal("INVALID_REQUEST", _sentence(error), error.mend)
    return Refusal(
        "FAULT",
        "Nothing is wrong with the request as far as the service can tell.",
        "tell whoever runs the service, with the request id",
    )


def problem_of(refusal: Refusal, request_id: str, *, v2: bool = False) -> Problem:
    """Return the problem body of a refusal; ``v2``: as the Open Inference Protocol wants it, too."""
    return Problem(
        type=f"/docs#{refusal.code}",
        title=title_of(refusal.code),
        status=status_of(refusal.code),
        detail=refusal.detail,
        instance=f"urn:uuid:{request_id}",
        code=refusal.code,
        request_id=request_id,
        hint=refusal.hint,
        error=refusal.detail if v2 else None,
    )


def answer(refusal: Refusal, scope: Scope) -> Response:
    """Return the HTTP answer of a refusal to the request of ``scope``, which the door has named."""
    v2 = scope["path"] == "/v2" or scope["path"].startswith("/v2/")
    problem = problem_of(refusal, scope["state"]["request_id"], v2=v2)
    headers = {"Cache-Control": "no-store"}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.allow is not None:
        headers["Allow"] = refusal.allow
    if refusal.challenge is not None:
        headers["WWW-Authenticate"] = refusal.challenge
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def _sentence(error: HilumError) -> str:
    where = "" if error.where is None else f" ({error.where})"
    return re.sub(r"\s+", " ", f"{error.what}{where}").strip()
