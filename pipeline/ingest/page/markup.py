"""Small pieces of HTML: escaped text, tables, definition lists, pictures inside the page."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

Cell = str | int | float


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    quiet: str = "",
    words: str = "",
) -> str:
    """Return a table whose first column names the row; numbers stand to the right.

    A cell that is a string is taken as HTML.

    Parameters
    ----------
    quiet
        A line of HTML beneath the table.
    words
        The name of a column that holds words, not numbers.
    """
    kinds = ["words" if name in (head[0], words) else "number" for name in head]
    names = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>'
        for name, kind in zip(head, kinds, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{_shown(row[0])}</th>{_cells(row[1:], kinds[1:])}</tr>'
        for row in rows
    )
    note = f'<p class="quiet">{quiet}</p>' if quiet else ""
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table>{note}</div>"
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
        f'<figure class="tile"><img src="data:image/jpeg;base64,{data}" alt="{escape(says)}">'
        f"{below}</figure>"
    )


def digest(text: str, length: int = 12) -> str:
    """Return the first digits of a digest, the whole of it on hover."""
    return f'<code title="{escape(text)}">{escape(text[:length])}</code>' if text else "–"


def _cells(cells: Sequence[Cell], kinds: Sequence[str]) -> str:
    pairs = zip(cells, kinds, strict=True)
    return "".join(f'<td class="{kind}">{_shown(cell)}</td>' for cell, kind in pairs)


def _shown(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.1f}"
