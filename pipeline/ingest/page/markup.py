"""Small pieces of HTML: escaped text, tables, definition lists, pictures inside the page."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

Cell = str | int | float


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], *, quiet: str = ""
) -> str:
    """Return a table whose first column names the row; numbers stand to the right.

    ``quiet`` is a line of HTML beneath it. A cell that is a string is taken as HTML.
    """
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_shown(row[0])}</th>{"".join(_cell(cell) for cell in row[1:])}</tr>'
        for row in rows
    )
    note = f'<p class="quiet">{quiet}</p>' if quiet else ""
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def facts(pairs: Iterable[tuple[str, Cell]]) -> str:
    """Return a list of names and values; a value that is a string is taken as HTML."""
    lines = (f"<dt>{escape(name)}</dt><dd>{_shown(value)}</dd>" for name, value in pairs)
    return f"<dl>{''.join(lines)}</dl>"


def section(name: str, title: str, *parts: str) -> str:
    """Return a part of the page under a heading; ``name`` is its anchor."""
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>{"".join(parts)}</section>'


def share(count: int, whole: int) -> str:
    """Return ``count`` with its share of ``whole``."""
    if not whole:
        return f"{count:,}"
    return f'{count:,} <span class="quiet">({100 * count / whole:.1f}&nbsp;%)</span>'


def picture(jpeg: bytes, says: str, caption: str = "") -> str:
    """Return a picture that lies inside the page. ``caption`` is HTML."""
    data = base64.b64encode(jpeg).decode()
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure class="tile"><img src="data:image/jpeg;base64,{data}" alt="{escape(says)}" '
        f'loading="lazy">{below}</figure>'
    )


def digest(text: str, length: int = 12) -> str:
    """Return the first digits of a digest, the whole of it on hover."""
    return f'<code title="{escape(text)}">{escape(text[:length])}</code>' if text else "–"


def _cell(cell: Cell) -> str:
    return f'<td class="number">{_shown(cell)}</td>'


def _shown(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}"
