"""Bearer tokens of an OpenID Connect issuer: its keys fetched and kept, algorithms pinned, claims checked."""

import asyncio
import base64
import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_schemas.errors import UsageError
from services.inference.journal import Journal
from services.inference.problems import Refusal
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""What a token may be signed with. Never `none`, and never a shared secret (HS256)."""

SCOPE_PREFIX = "hilum:"
LEEWAY_SECONDS = 30
FRESH_SECONDS = 600.0
KEPT_SECONDS = 86_400.0
BETWEEN_FETCHES = 10.0
TOKEN_SECONDS = 60.0
MOST_TOKENS = 1024
MOST_BYTES = 2**20
LONGEST_TOKEN = 16_384
_FAULTS_OF_TOKENS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What reading a token may raise, besides the library's own errors."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token it is, for the log (a pseudonym), and what it may do."""

    id: str
    scopes: frozenset[str]


class Tokens:
    """Checks tokens. The issuer's keys are fetched when first needed and every ten minutes.

    A key that isn't known leads to another fetch, at most every ten seconds, so that made-up
    tokens can't make the service call the issuer again and again. While the issuer is away, the
    keys that are known serve for a day.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        journal: Journal,
        fetch: Callable[[str], Any] | None = None,
    ) -> None:
        try:
            import joserfc  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "tokens need the package joserfc",
                where="HILUM_OIDC_ISSUER",
                mend="pip install 'hilum[secure]'",
            ) from error
        if not settings.oidc_audience:
            raise UsageError(
                "a token must be meant for this service",
                where="HILUM_OIDC_AUDIENCE",
                mend="name the audience that the issuer writes into tokens for it",
            )
        check_address(settings.oidc_issuer, where="HILUM_OIDC_ISSUER")
        if settings.oidc_jwks_url:
            check_address(settings.oidc_jwks_url, where="HILUM_OIDC_JWKS_URL")
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self._jwks_url = settings.oidc_jwks_url
        self._journal = journal
        self._fetch = fetch or _fetched
        self._keys: KeySet | None = None
        self._names: frozenset[str] = frozenset()
        self._taken = self._asked = -KEPT_SECONDS
        self._fetching = asyncio.Lock()
        self._known: dict[bytes, tuple[Identity, float]] = {}

    async def identity(self, text: str) -> Identity:
        """Return whose token this is.

        Raises
        ------
        Refusal
            ``UNAUTHENTICATED`` if it isn't a valid token for this service, ``ISSUER_AWAY`` if the
            issuer's keys were never seen and can't be fetched.
        """
        mark = hashlib.sha256(text.encode("latin-1", "replace")).digest()
        kept = self._known.get(mark)
        if kept is not None and kept[1] > time.time():
            return kept[0]
        header = _header(text)
        await self._keys_for(str(header.get("kid", "")))
        identity, ends = self._checked(text)
        if len(self._known) >= MOST_TOKENS:
            self._known.clear()
        self._known[mark] = identity, min(ends, time.time() + TOKEN_SECONDS)
        return identity

    def _checked(self, text: str) -> tuple[Identity, float]:
        from joserfc import jwt
        from joserfc.errors import JoseError

        if self._keys is None:
            raise Refusal(
                "ISSUER_AWAY",
                "The keys of the issuer of tokens can't be fetched.",
                retry_after_s=10,
            )
        registry = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            exp={"essential": True},
        )
        try:
            token = jwt.decode(text, self._keys, algorithms=list(ALGORITHMS))
            registry.validate(token.claims)
            # an issuer may write anything into its claims
            identity = Identity(_pseudonym(token.claims), _scopes(token.claims))
            return identity, float(token.claims["exp"])
        except (*_FAULTS_OF_TOKENS, JoseError):
            raise invalid() from None

    async def _keys_for(self, name: str) -> None:
        if self._is_known(name):
            return
        async with self._fetching:
            now = time.monotonic()
            if self._is_known(name) or now - self._asked < BETWEEN_FETCHES:
                return
            self._asked = now
            try:
                found = await asyncio.to_thread(self._fetch_keys)
            except Exception as error:  # noqa: BLE001 - an issuer may answer anything, or break off
                self._journal.write("issuer_away", level="warning", error=type(error).__name__)
                if now - self._taken > KEPT_SECONDS:
                    self._keys = None
                return
            self._keys, self._names, self._taken = found, _names(found), now

    def _is_known(self, name: str) -> bool:
        fresh = time.monotonic() - self._taken < FRESH_SECONDS
        return fresh and self._keys is not None and (not name or name in self._names)

    def _fetch_keys(self) -> "KeySet":
        from joserfc.jwk import JWKRegistry, KeySet

        where = self._jwks_url
        if not where:
            said = self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if said["issuer"] != self._issuer:
                raise ValueError("the discovery document is another issuer's")
            where = str(said["jwks_uri"])
        check_address(where, where="jwks_uri")
        # a shared secret in a public document would let everybody sign
        keys = []
        for tree in self._fetch(where)["keys"]:
            # one that isn't understood is passed by (RFC 7517, 5): the others hold
            with suppress(Exception):
                if tree["kty"] in ("RSA", "EC", "OKP") and tree.get("use", "sig") == "sig":
                    keys.append(JWKRegistry.import_key(tree))
        if not keys:
            raise ValueError("the issuer names no keys")
        return KeySet(keys)


def check_address(address: str, *, where: str) -> None:
    """Check that an address can't be altered on its way: https, or this machine.

    Raises
    ------
    UsageError
        If it is neither.
    """
    parts = urllib.parse.urlsplit(address)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme == "https" or (parts.scheme == "http" and local):
        return
    raise UsageError("must begin with https://", where=where)


def invalid() -> Refusal:
    """Return the refusal of a token; which check it failed is nobody's business but its maker's."""
    return Refusal(
        "UNAUTHENTICATED",
        "The token isn't valid here: signature, issuer, audience or time.",
        "ask the issuer for a new one, for this service's audience",
        challenge='Bearer realm="hilum", error="invalid_token"',
    )


class _Straight(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing: the issuer's address is the one that was named."""


def _fetched(address: str) -> Any:
    opener = urllib.request.build_opener(_Straight)
    with opener.open(address, timeout=5) as reply:
        return json.loads(reply.read(MOST_BYTES))


def _header(text: str) -> dict[str, Any]:
    head = text.partition(".")[0]
    if len(text) > LONGEST_TOKEN:
        raise invalid()
    try:
        tree = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        raise invalid() from None
    if not isinstance(tree, dict) or tree.get("alg") not in ALGORITHMS:
        raise invalid()
    return tree


def _names(keys: "KeySet") -> frozenset[str]:
    return frozenset(str(key.kid) for key in keys.keys if key.kid)


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    words: set[str] = set()
    for name in ("scope", "scp", "roles"):
        said = claims.get(name, ())
        words |= set(said.split()) if isinstance(said, str) else set(map(str, said or ()))
    return frozenset(
        word.removeprefix(SCOPE_PREFIX) for word in words if word.startswith(SCOPE_PREFIX)
    )


def _pseudonym(claims: dict[str, Any]) -> str:
    # a subject may be a person's name or address; the log needs only to tell one from another
    said = f"{claims.get('iss')} {claims.get('sub') or claims.get('client_id') or ''}"
    return f"token:{hashlib.sha256(said.encode()).hexdigest()[:12]}"
