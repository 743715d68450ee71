"""The key ring: API keys as the service keeps them, hashed, with scopes and an end."""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import Field

from data_schemas.document import Document, Part

Scope = Literal["score", "metrics", "admin"]
SCOPES: dict[Scope, str] = {
    "score": "score images, read about the model",
    "metrics": "read /metrics",
    "admin": "everything",
}
"""Scope -> what it allows."""

PREFIX = "hilum_"


class ApiKey(Part):
    """A key without its secret.

    The secret is 256 random bits, so there is nothing to guess and a slow hash (scrypt, Argon2)
    would add no strength, only work that any stranger could make the service do. A salted
    HMAC-SHA256 keeps a reader of the file from using it.
    """

    id: str = Field(
        pattern=r"^[0-9a-f]{8}$", description="public; stands in the key and in the log"
    )
    name: str = Field(min_length=1, max_length=100, description="who or what it was given to")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="HMAC-SHA256 of the secret")
    created: datetime
    expires: datetime | None = Field(default=None, description="with a time zone; None: never")
    rate: float | None = Field(
        default=None, gt=0, description="requests a second; None: the service's setting"
    )

    def fits(self, secret: str) -> bool:
        """Tell whether ``secret`` is this key's, in a time that doesn't depend on how near it is."""
        return hmac.compare_digest(_digest(self.salt, secret), self.digest)

    def has_expired(self, now: datetime) -> bool:
        """Tell whether the key's time is over."""
        return self.expires is not None and _aware(self.expires) <= now


class KeyRing(Document):
    """All keys of a service."""

    VERSION: ClassVar[int] = 1

    keys: tuple[ApiKey, ...] = ()


def new_key(
    name: str,
    scopes: tuple[Scope, ...],
    *,
    expires: datetime | None = None,
    rate: float | None = None,
) -> tuple[ApiKey, str]:
    """Return a new key and its text, which is shown once and kept nowhere."""
    secret, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
    key = ApiKey(
        id=secrets.token_hex(4),
        name=name,
        scopes=scopes,
        salt=salt,
        digest=_digest(salt, secret),
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
        rate=rate,
    )
    return key, f"{PREFIX}{key.id}_{secret}"


def split_key(text: str) -> tuple[str, str] | None:
    """Return (id, secret) of a key's text; ``None`` if it has another shape."""
    words = text.split("_", 2)
    if len(words) != 3 or f"{words[0]}_" != PREFIX:
        return None
    return words[1], words[2]


def _digest(salt: str, secret: str) -> str:
    return hmac.new(bytes.fromhex(salt), secret.encode(), hashlib.sha256).hexdigest()


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
