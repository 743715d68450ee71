"""Writes the page: one HTML file with its style, its script and all its numbers inside."""

import json
from html import escape
from pathlib import Path
from typing import Any

from data_schemas.version import our_version

_HERE = Path(__file__).parent


def page(tree: dict[str, Any]) -> str:
    """Return the tree of :func:`pipeline.train.look.content.contents` as a page.

    It needs nothing but itself: no other file, no network. The numbers lie in it as JSON, in the
    element ``data``; packed arrays are deflated little-endian bytes in base 64.
    """
    data = json.dumps({**tree, "made": our_version()}, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "{{TITLE}}": escape(f"{tree['model']['name']}: {tree['image']['name']}"),
        "{{STYLE}}": _read("page.css"),
        "{{SCRIPT}}": _read("page.js"),
        # the data last: nothing inside them is taken for a place to fill
        "{{DATA}}": data.replace("<", "\\u003c"),
    }
    text = _read("page.html")
    for place, content in parts.items():
        before, _, after = text.partition(place)
        text = before + content + after
    return text


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
