"""Who may ask: API keys and tokens, what each may do, how often. Health is open to all."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from data_schemas.errors import HilumError, UsageError
from data_schemas.keys import PREFIX, ApiKey, KeyRing, new_key, split_key
from services.inference.journal import Journal
from services.inference.problems import Refusal, answer
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from services.inference.tokens import Tokens

OPEN = frozenset(
    (
        *("/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"),
        *("/", "/page.css", "/page.js"),
    )
)
"""Health, for whoever watches the service, and the files of the page, which say nothing."""

READ_AGAIN_SECONDS = 1.0
MOST_BUCKETS = 4096
_LOOPBACK = frozenset(("127.0.0.1", "localhost", "[::1]"))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a name for the log, what it may do, and how often."""

    id: str
    scopes: frozenset[str]
    rate: float | None = None


class Keys:
    """The keys of a file, read again when it changes.

    A file that can't be read or is wrong changes nothing but the log: neither does it lock
    everybody out, nor let anybody in.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._keys: dict[str, ApiKey] = {}
        self._looked = time.monotonic()
        self._told = ""
        # an unknown id costs as much as a known one
        self._nobody, _ = new_key("nobody", ("score",))
        self._mark = self._marked()
        self._take(KeyRing.read_json(path))

    def caller(self, text: str) -> Caller:
        """Return whose key this is.

        Raises
        ------
        Refusal
            ``UNAUTHENTICATED``, with the same words for an unknown, a wrong and an expired key.
        """
        self._look()
        name, secret = split_key(text) or ("", "")
        key = self._keys.get(name, self._nobody)
        fits = key.fits(secret)
        if not fits or key is self._nobody or key.has_expired(datetime.now(UTC)):
            raise unauthenticated("The API key isn't known here, or its time is over.")
        return Caller(f"key:{key.id}", frozenset(key.scopes), key.rate)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < READ_AGAIN_SECONDS:
            return
        self._looked = now
        mark = self._marked()
        if mark == self._mark:
            return
        try:
            self._take(KeyRing.read_json(self._path))
            self._mark, self._told = mark, ""
            self._journal.write("keys", count=len(self._keys))
        except (HilumError, OSError) as error:
            if self._told != type(error).__name__:
                self._told = type(error).__name__
                self._journal.write("keys_refused", level="error", error=self._told)

    def _take(self, ring: KeyRing) -> None:
        self._keys = {key.id: key for key in ring.keys}

    def _marked(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)


class Buckets:
    """One token bucket for each caller, of this process: ``rate`` a second, ``burst`` at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._filled: dict[str, tuple[float, float]] = {}

    def take(self, caller: str, rate: float, burst: float) -> float:
        """Take one; return 0, or how many seconds until there is one."""
        now = self._clock()
        left, then = self._filled.pop(caller, (burst, now))
        left = min(burst, left + (now - then) * rate)
        wait = 0.0 if left >= 1 else (1 - left) / rate
        # the one that asked last stands last, so the first is the one to forget
        self._filled[caller] = (left - 1 if wait == 0 else left, now)
        if len(self._filled) > MOST_BUCKETS:
            self._filled.pop(next(iter(self._filled)))
        return wait

    def owe(self, caller: str, count: int) -> None:
        """Take more for what was let in already; the caller waits longer for its next request."""
        left, then = self._filled.get(caller, (0.0, self._clock()))
        self._filled[caller] = (left - count, then)


class Gate:
    """ASGI middleware, inside the door: lets a request through, or answers 401, 403 or 429."""

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, journal: Journal) -> None:
        self._app = app
        self._settings = settings
        self._keys = Keys(Path(settings.keys_file), journal) if settings.keys_file else None
        self._tokens = _tokens(settings, journal) if settings.oidc_issuer else None
        self._buckets = Buckets()
        self._hosts = _LOOPBACK | frozenset(settings.hosts.split())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if its caller may ask this, now."""
        if scope["type"] == "http":
            try:
                await self._admit(scope)
            except Refusal as refusal:
                scope["state"]["facts"]["code"] = refusal.code
                await answer(refusal, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        path = scope["path"]
        if self._keys is None and self._tokens is None:
            self._refuse_strange_pages(scope)
            return
        if path in OPEN and scope["method"] in ("GET", "HEAD"):
            return
        caller = await self._caller(scope)
        scope["state"]["facts"]["caller"] = caller.id
        needed = needed_scope(path)
        if needed not in caller.scopes and "admin" not in caller.scopes:
            raise Refusal(
                "FORBIDDEN",
                f"This address needs the scope `{needed}`.",
                f"ask whoever runs the service for a key with the scope {needed}",
            )
        rate = caller.rate or self._settings.rate
        if rate:
            wait = self._buckets.take(caller.id, rate, max(1.0, self._settings.burst or rate))
            if wait:
                raise Refusal(
                    "RATE_LIMITED",
                    f"{rate:g} requests a second are allowed for this key.",
                    retry_after_s=math.ceil(wait),
                )
            # a request of many images is as many; how many is known once its body is read
            scope["state"]["owe"] = partial(self._buckets.owe, caller.id)

    async def _caller(self, scope: Scope) -> Caller:
        text = credential_of(scope)
        if text.startswith(PREFIX) and self._keys is not None:
            return self._keys.caller(text)
        if self._tokens is not None:
            identity = await self._tokens.identity(text)
            return Caller(identity.id, identity.scopes)
        raise unauthenticated("The API key isn't known here, or its time is over.")

    def _refuse_strange_pages(self, scope: Scope) -> None:
        # without keys anything on this machine may ask; a web page from elsewhere, open in a
        # browser on this machine, may not (DNS rebinding, requests across sites)
        if self._settings.insecure_open:
            return
        said = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if b"origin" not in said and b"sec-fetch-site" not in said:
            return
        name = _name_of(said.get(b"host", ""))
        site = said.get(b"sec-fetch-site")
        if site is None:
            # browsers before 2023 don't say; an origin without a name is `null`
            origin = _name_of(said[b"origin"].partition("://")[2])
            site = "same-site" if origin == name else "cross-site"
        if name in self._hosts and site != "cross-site":
            return
        raise Refusal(
            "FORBIDDEN",
            "A web page from another place can't use this service.",
            "name the host that its page is reached under: HILUM_HOSTS",
        )


def _name_of(place: str) -> str:
    """Return the name in ``NAME:PORT``."""
    place = place.lower()
    return place if place.endswith("]") else place.rpartition(":")[0] or place


def _tokens(settings: ServiceSettings, journal: Journal) -> "Tokens":
    # only who trusts an issuer pays for what it takes to ask one
    from services.inference.tokens import Tokens

    return Tokens(settings, journal)


def needed_scope(path: str) -> str:
    """Return the scope that an address needs."""
    if path == "/metrics":
        return "metrics"
    return "admin" if path.startswith(("/v1/admin", "/admin")) else "score"


def credential_of(scope: Scope) -> str:
    """Return the key or token of a request: ``Authorization: Bearer`` or ``X-API-Key``.

    Raises
    ------
    Refusal
        ``UNAUTHENTICATED`` if there is none, or more than one.
    """
    found = []
    for name, value in scope["headers"]:
        text = value.decode("latin-1").strip()
        if name == b"x-api-key":
            found.append(text)
        elif name == b"authorization":
            kind, _, rest = text.partition(" ")
            found.append(rest.strip() if kind.lower() == "bearer" else "")
    if len(found) != 1 or not found[0]:
        raise unauthenticated("No API key and no bearer token came with the request.")
    return str(found[0])


def unauthenticated(detail: str) -> Refusal:
    """Return the refusal of a request that doesn't show who asks."""
    return Refusal(
        "UNAUTHENTICATED",
        detail,
        "send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        challenge='Bearer realm="hilum"',
    )


def check_open(settings: ServiceSettings, *, open_to_others: bool, journal: Journal) -> None:
    """Refuse to serve strangers by accident.

    Raises
    ------
    UsageError
        If other machines can reach the port, nobody is asked who they are, and nobody said that
        this is meant.
    """
    if settings.keys_file or settings.oidc_issuer or not open_to_others:
        return
    if not settings.insecure_open:
        raise UsageError(
            "other machines can reach this port, and nobody would be asked who they are",
            where="--host",
            mend="make a key (`hilum keys add NAME --file keys.json`) and name the file with"
            " --keys-file, or listen on 127.0.0.1, or say --insecure-open if a proxy asks for you",
        )
    journal.write(
        "insecure_open",
        level="warning",
        meaning="whoever reaches this port can score: no keys, no tokens",
    )


SCHEMES: dict[str, Any] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "an API key, or a token of the issuer that the service trusts",
    },
}


def describe_access(tree: dict[str, Any], problems: Callable[..., dict[Any, Any]]) -> None:
    """Add to an OpenAPI tree what the gate may ask for and answer."""
    tree.setdefault("components", {})["securitySchemes"] = SCHEMES
    for path, methods in tree["paths"].items():
        for operation in methods.values():
            refused = problems(403) if path in OPEN else problems(401, 403, 429, 503)
            for status, described in refused.items():
                operation["responses"].setdefault(str(status), described)
            if path not in OPEN:
                # the empty one: a service on loopback may ask for nothing
                operation["security"] = [{"key": []}, {"bearer": []}, {}]
