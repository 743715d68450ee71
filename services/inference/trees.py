"""JSON bodies: read within bounds of memory, and the images in them."""

import base64
import binascii
from typing import Any

import pydantic_core
from starlette.requests import Request

from services.inference.body import content_type
from services.inference.problems import Refusal

MOST_VALUES = 2_000_000
"""Values that a JSON body may hold: one takes up to 150 bytes in memory, however few in the text."""

MOST_WIDE = 2**25
"""Bytes of a JSON body with characters beyond ASCII: one such makes a whole text four times as large."""


def tree_of(text: bytes) -> dict[str, Any]:
    """Return the JSON object that ``text`` holds.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST``.
    """
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise Refusal(
            "INVALID_REQUEST",
            f"The JSON body holds more than {MOST_VALUES} values.",
            "send images as files or as binary tensors, not as lists of numbers",
        )
    if len(text) > MOST_WIDE and (not text.isascii() or b"\\u" in text):
        raise Refusal(
            "INVALID_REQUEST",
            f"A JSON body with characters beyond ASCII may have {MOST_WIDE} bytes at most.",
        )
    try:
        tree = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        # the parser's message may quote the text
        raise Refusal("INVALID_REQUEST", "The body isn't JSON.") from None
    if not isinstance(tree, dict):
        raise Refusal("INVALID_REQUEST", "The body must be a JSON object.")
    return tree


def bytes_of(text: object, name: str) -> bytes:
    """Return the bytes of a file in base64 (RFC 4648; line ends in it are passed over).

    Raises
    ------
    Refusal
        ``INVALID_REQUEST``; ``name`` says which value it is about.
    """
    if not isinstance(text, str) or not text.isascii():
        raise Refusal("INVALID_REQUEST", f"{name} must be a file's bytes in base64.")
    try:
        packed = text.encode("ascii").translate(None, b" \t\r\n")
        data = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("INVALID_REQUEST", f"{name} is not base64.") from None
    if not data:
        raise Refusal("EMPTY_BODY", f"{name} is empty.")
    return data


def check_plain(request: Request, *kinds: str) -> None:
    """Check that a body isn't packed, and is of one of these media types if any are named.

    Raises
    ------
    Refusal
        ``WRONG_MEDIA``.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal("WRONG_MEDIA", "Packed bodies (Content-Encoding) aren't taken.")
    kind, _ = content_type(request)
    if kinds and kind and kind not in kinds:
        raise Refusal("WRONG_MEDIA", f"This address takes {', '.join(kinds)}.")
