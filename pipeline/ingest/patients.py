"""Pseudonyms of patients, and the split that follows from them."""

import hashlib
import hmac

from data_schemas.terms import Split

_SHARES: tuple[tuple[Split, float], ...] = (
    ("train", 0.55),
    ("tune", 0.10),
    ("calibration", 0.15),
    ("test", 0.20),
)


def pseudonym(key: bytes, patient: str) -> str:
    """Return 16 hex digits that stand for a patient.

    HMAC-SHA256, so that nobody without the key can find a patient by trying identifiers out.
    """
    return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16]


def place_key(key: bytes, place: str) -> str:
    """Return 16 hex digits that stand for a file's place in its source."""
    return pseudonym(key, f"place:{place}")


def split_of(patient: str) -> Split:
    """Return the split of a pseudonym.

    It depends on nothing else: a new patient moves no other, and all images of one patient stay
    together.
    """
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    for split, share in _SHARES:
        if place < share:
            return split
        place -= share
    return "test"
