"""The Receipt: what is kept of a score, so that it can be proved and repeated; and the lines of its log.

A line of the log is one JSON object. Its last two keys are ``seal`` and ``digest``: the digest is
the SHA-256 of every byte of the line before ``,"digest"``, and the next line names it as its
``previous``. So each byte of each line is covered by all lines after it.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from data_schemas.document import Document
from data_schemas.errors import HilumError
from data_schemas.files import sha256
from data_schemas.score import Score

FIRST = "0" * 64
"""What the first line of a log names as its previous digest."""

_DIGEST = b',"digest":"'
_SEAL = b',"seal":"'
_END = b'"}'
_TAIL = len(_DIGEST) + 64 + len(_END)
_KEY_BYTES = 16


class Receipt(Document):
    """One score: what went in, what answered, the digest of what came out. No pixels, no identifiers.

    The verdict itself is not in it: whoever reads the log learns that something was scored, not
    what was found. Whoever holds the score can show that it is the one that was given.
    """

    VERSION: ClassVar[int] = 1

    score_id: str = Field(description="random; the same as in the score")
    time: str = Field(description="UTC, when the score was made")
    model_name: str
    model_version: str = ""
    package_sha256: str
    contract_sha256: str
    runtime: str = Field(description="runtime, its version and its precision")
    input_sha256: str = Field(description="of the bytes that came in")
    prepared_sha256: str = Field(description="of the array that the network saw")
    output_sha256: str = Field(description="of what decided: see output_digest")
    operating_point: str


def receipt_of(score: Score, time: str) -> Receipt:
    """Return the receipt of a score that carries its ``score_id``."""
    return Receipt(
        score_id=score.score_id,
        time=time,
        model_name=score.model.name,
        model_version=score.model.version,
        package_sha256=score.model.package_sha256,
        contract_sha256=score.model.contract_sha256,
        runtime=score.model.runtime,
        input_sha256=score.image.source_sha256,
        prepared_sha256=score.image.prepared_sha256,
        output_sha256=output_digest(score),
        operating_point=score.operating_point,
    )


def output_digest(score: Score) -> str:
    """Return the SHA-256 of what decided, as canonical JSON: sorted keys, no spaces, shortest floats.

    Logits, probabilities, findings with their thresholds, primary label, operating point, threshold,
    verdict; and the scope, where a score has one. Evidence maps are not part of it: they are optional
    and follow from the same run of the graph.
    """
    decided = score.model_dump(
        mode="json",
        include={
            "logits",
            "probabilities",
            "findings",
            "primary",
            "operating_point",
            "threshold",
            "verdict",
            "scope",
        },
    )
    if decided["scope"] is None:
        # as it was before scores had a scope: older receipts can still be replayed
        del decided["scope"]
    return sha256(canonical(decided))


def canonical(tree: Mapping[str, Any]) -> bytes:
    """Return a tree as JSON with sorted keys and no spaces: the bytes that are hashed."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that seals lines: who doesn't have it can't write a line that passes."""

    secret: bytes

    @property
    def name(self) -> str:
        """A public name of the key, that says nothing about it."""
        return hmac.new(self.secret, b"hilum receipt key", hashlib.sha256).hexdigest()[:16]

    def seal(self, core: bytes) -> str:
        """Return the HMAC-SHA256 of a line's bytes before its seal, 64 hex digits."""
        return hmac.new(self.secret, core, hashlib.sha256).hexdigest()


def keys_of(text: str, *, where: str) -> tuple[Key, ...]:
    """Return the keys of a key file: one a line, hex digits; the first one seals, all are known.

    Raises
    ------
    HilumError
        If a line isn't hex digits of at least 16 bytes, or there is none.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            secret = bytes.fromhex(line.strip())
        except ValueError:
            secret = b""
        if len(secret) < _KEY_BYTES:
            raise HilumError(
                "a key must be at least 32 hex digits",
                where=f"{where}:{number}",
                mend="make one with: openssl rand -hex 32",
            )
        keys.append(Key(secret))
    if not keys:
        raise HilumError("holds no key", where=where, mend="openssl rand -hex 32 > FILE")
    return tuple(keys)


def line_of(
    kind: str, fields: Mapping[str, Any], number: int, previous: str, key: Key | None = None
) -> tuple[bytes, str]:
    """Return a line of the log with its newline, and its digest.

    Parameters
    ----------
    kind
        ``receipt``, ``mended`` or ``head``.
    fields
        What the line says.
    number, previous
        Its place in the chain: 0 and :data:`FIRST` for the first.
    key
        What seals it; ``None``: the seal stays empty.
    """
    named = {} if key is None else {"key": key.name}
    tree = {**fields, **named, "kind": kind, "number": number, "previous": previous}
    core = canonical(tree)[:-1]
    seal = "" if key is None else key.seal(core)
    covered = b"".join((core, _SEAL, seal.encode(), b'"'))
    digest = sha256(covered)
    return b"".join((covered, _DIGEST, digest.encode(), _END, b"\n")), digest


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read: what it says, and whether its own digest fits."""

    tree: dict[str, Any]
    kind: str
    number: int
    previous: str
    digest: str
    whole: bool

    def receipt(self, *, where: str) -> Receipt:
        """Return the receipt that the line holds."""
        fields = {name: self.tree[name] for name in Receipt.model_fields if name in self.tree}
        return Receipt.from_tree(fields, where=where)


def parse_line(data: bytes) -> Line | None:
    """Read a line (without its newline); ``None`` if it isn't one of a log.

    ``whole`` is False where the digest at its end is not that of its bytes.
    """
    if data[-_TAIL : len(_DIGEST) - _TAIL] != _DIGEST or data[-2:] != _END:
        return None
    covered = data[:-_TAIL]
    digest = data[-66:-2].decode("latin-1")
    try:
        tree = json.loads(data)
        kind, number, previous = tree["kind"], tree["number"], tree["previous"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(kind, str) and type(number) is int and isinstance(previous, str)):
        return None
    return Line(tree, kind, number, previous, digest, sha256(covered) == digest)


def seal_fits(data: bytes, keys: Sequence[Key]) -> bool:
    """Tell whether a line (without its newline) carries the seal of one of ``keys``."""
    core, found, rest = data[:-_TAIL].rpartition(_SEAL)
    if not found or len(rest) != 65:
        return False
    seal = rest[:64].decode("latin-1")
    return any(hmac.compare_digest(key.seal(core).encode(), seal.encode()) for key in keys)
