"""Pseudonyms: keyed hashes that stand for patients, places, instances and sites."""

import hmac


def pseudonym(key: bytes, patient: str) -> str:
    """Return 16 hex digits that stand for a patient.

    HMAC-SHA256, so that nobody without the key can find a patient by trying identifiers out.
    """
    return hmac.digest(key, patient.encode(), "sha256").hex()[:16]


def place_key(key: bytes, place: str) -> str:
    """Return 16 hex digits that stand for a file's place in its source."""
    return pseudonym(key, f"place:{place}")
