"""The review as one HTML page of a run: five answers, doubts, figures, tables, mistakes; asks for nothing."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.card import Card
from pipeline.evaluate.review import Review
from pipeline.evaluate.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "review.html"
MOST_ROWS = 20
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;margin:24px auto;max-width:1060px;padding:0 20px}
h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:30px 0 8px;border-top:1px solid #d0d7de;padding-top:14px}
p.use{color:#57606a;margin:0 0 16px}table{border-collapse:collapse;font-size:13.5px}
th,td{border:1px solid #d0d7de;padding:5px 9px;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}th{background:#f6f8fa;font-weight:600}
table.five{font-size:15px;width:100%}table.five th{white-space:nowrap;width:1%}
ul.doubts li{margin:3px 0}ul.doubts{background:#fff8e5;border-left:4px solid #d29922;margin:14px 0;padding:8px 8px 8px 28px}
p.none{background:#eaf5ea;border-left:4px solid #2da44e;padding:8px 12px}
.scroll{overflow-x:auto}img{max-width:100%;height:auto}.figures{display:flex;align-items:flex-start;flex-wrap:wrap;gap:10px}
*{box-sizing:border-box}.figures img{width:calc(50% - 6px);min-width:320px;border:1px solid #eaeef2}code{font-size:13px}
"""


@dataclass(frozen=True, slots=True)
class Content:
    """Everything on the page, in the order of reading."""

    title: str
    intended_use: str
    review: Review
    figures: Mapping[str, "Figure"]  # what it shows -> figure
    sheets: Mapping[str, NDArray[np.uint8]]  # what it shows -> picture
    tables: Mapping[str, Table]  # heading -> table
    remarks: Sequence[str]
    facts: Mapping[str, str]  # digests and the like


def review_page(content: Content) -> str:
    """Return the page. Pictures are inside it; it has no script and loads nothing."""
    asked = "".join(
        f"<tr><th>{html.escape(question)}?</th><td>{html.escape(answer)}</td></tr>"
        for question, answer in content.review.answers()
    )
    parts = [
        f"<h1>{html.escape(content.title)}</h1>",
        f'<p class="use">{html.escape(content.intended_use)}</p>',
        f'<table class="five">{asked}</table>',
        _doubts(content.review.flags),
        _pictures("Figures", {name: _drawn(one) for name, one in content.figures.items()}),
    ]
    for name, pixels in content.sheets.items():
        shown = _image(name, _png(pixels))
        parts.append(f"<h2>{html.escape(name)}</h2>{shown}")
    parts += [f"<h2>{html.escape(name)}</h2>{_table(one)}" for name, one in content.tables.items()]
    if content.remarks:
        listed = "".join(f"<li>{html.escape(remark)}</li>" for remark in content.remarks)
        parts.append(f"<h2>Remarks</h2><ul>{listed}</ul>")
    facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td><code>{html.escape(value)}</code></td></tr>"
        for name, value in content.facts.items()
    )
    parts.append(f"<h2>To reproduce</h2><table>{facts}</table>")
    head = f'<meta charset="utf-8"><title>{html.escape(content.title)}</title>'
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n'


def facts_of(card: Card, run_id: str) -> dict[str, str]:
    """Return what a run is reproduced from: digests, and the code's version."""
    return {
        "run": run_id,
        "data set": card.dataset_sha256,
        "contract": card.contract_sha256,
        "plan": card.plan_sha256,
        "hilum": f"{card.hilum_version} {card.git_commit[:12]}".strip(),
    }


def _doubts(flags: Sequence[str]) -> str:
    if not flags:
        return '<p class="none">Nothing suspicious was found by rule. Look at the mistakes all the same.</p>'
    listed = "".join(f"<li>{html.escape(flag)}</li>" for flag in flags)
    return f'<ul class="doubts" aria-label="doubts">{listed}</ul>'


def _pictures(heading: str, pictures: Mapping[str, bytes]) -> str:
    if not pictures:
        return ""
    shown = "".join(_image(name, png) for name, png in pictures.items())
    return f'<h2>{html.escape(heading)}</h2><div class="figures">{shown}</div>'


def _image(name: str, png: bytes) -> str:
    text = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{text}">'


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _drawn(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return buffer.getvalue()


def _table(table: Table) -> str:
    if not table.rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows[:MOST_ROWS])
    left = len(table.rows) - MOST_ROWS
    more = f"<p>and {left} more, in the table of the run's artifacts</p>" if left > 0 else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{more}'


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape('undefined' if value is None else str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    return f'<td class="n">{text}</td>'
