"""Draws the funnel as SVG: boxes of what passed, one below the other, what was refused to the right."""

from dataclasses import dataclass
from html import escape

from data_schemas.dataset import DatasetInfo
from pipeline.ingest.page.stages import Stage, stages

_WIDTH = 500
_BOX_LEFT, _BOX_WIDTH, _BOX_HEIGHT = 4, 228, 42
_SIDE_LEFT, _SIDE_WIDTH = 266, 230
_LINE, _GAP, _PADDING = 19, 22, 12
_SPLIT_GAP = 8

STYLE = """
.funnel { --ground: #fff; --box: #eef3f5; --ink: #17242b; --soft: #52646d; --line: #8fa1aa; --lost: #fdf3df; --lostline: #c99a3f; }
@media (prefers-color-scheme: dark) { .funnel { --ground: #1a252b; --box: #27343b; --ink: #e8eef1; --soft: #a3b4bc; --line: #6c808a; --lost: #42320f; --lostline: #a17a2c; } }
@media print { .funnel { --ground: #fff; --box: #fff; --ink: #000; --soft: #333; --line: #555; --lost: #fff; --lostline: #555; } }
.funnel text { font: 14px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; fill: var(--ink); }
.funnel .number { font-weight: 700; font-size: 16px; }
.funnel .soft { fill: var(--soft); font-size: 13px; }
.funnel rect { fill: var(--box); stroke: var(--line); }
.funnel .lost { fill: var(--lost); stroke: var(--lostline); }
.funnel path { stroke: var(--line); stroke-width: 1.5; fill: none; }
.funnel .head { fill: var(--line); stroke: none; }
"""
"""Colours for light, dark and paper; the page carries it once, the lone file by itself."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    parts: tuple[str, ...]
    bottom: float


def funnel_svg(info: DatasetInfo, *, alone: bool = False) -> str:
    """Return the funnel as an SVG element.

    Parameters
    ----------
    alone
        A whole document with its own style and ground, to be kept as a file.
    """
    parts: list[str] = []
    y = 10.0
    every = stages(info)
    for stage in every:
        drawn = _stage(stage, y, first=stage is every[0])
        parts += drawn.parts
        y = drawn.bottom
    drawn = _splits(info, y)
    parts += drawn.parts
    height = round(drawn.bottom + 10)
    says = escape(describe(info))
    opening = (
        f'<svg class="funnel" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-label="{says}"'
    )
    if not alone:
        return f"{opening}>{''.join(parts)}</svg>"
    ground = f'<rect width="{_WIDTH}" height="{height}" style="fill: var(--ground); stroke: none"/>'
    title = f"<title>{says}</title><style>{STYLE}</style>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'{opening} width="{_WIDTH}" height="{height}">{title}{ground}{"".join(parts)}</svg>\n'
    )


def describe(info: DatasetInfo) -> str:
    """Return the funnel in one sentence, for those who can't see it."""
    steps = " → ".join(f"{stage.passed:,} {stage.name}" for stage in stages(info))
    splits = ", ".join(f"{split} {count:,}" for split, count in info.splits.items())
    return f"Flow of the files: {steps}. Splits: {splits}."


def _stage(stage: Stage, y: float, *, first: bool) -> _Drawn:
    parts = []
    top = y
    if not first:
        side = len(stage.lost) * _LINE + _PADDING if stage.lost else 0
        top = y + max(_GAP, side + 8)
        parts.append(_arrow(_BOX_LEFT + _BOX_WIDTH / 2, y, top))
        if stage.lost:
            parts += _refused(stage, y + 4, side, _BOX_LEFT + _BOX_WIDTH / 2)
    middle = top + _BOX_HEIGHT / 2 + 5
    parts.append(_box(_BOX_LEFT, top, _BOX_WIDTH, _BOX_HEIGHT))
    parts.append(
        f'<text x="{_BOX_LEFT + 14}" y="{middle}"><tspan class="number">{stage.passed:,}</tspan>'
        f'<tspan dx="7">{escape(stage.name)}</tspan></text>'
    )
    return _Drawn(tuple(parts), top + _BOX_HEIGHT)


def _refused(stage: Stage, top: float, height: float, stem: float) -> list[str]:
    middle = top + height / 2
    parts = [
        f'<path d="M{stem} {middle}H{_SIDE_LEFT - 7}"/>',
        f'<path class="head" d="M{_SIDE_LEFT} {middle}l-8 -4.5v9z"/>',
        _box(_SIDE_LEFT, top, _SIDE_WIDTH, height, "lost"),
    ]
    for line, (code, count) in enumerate(stage.lost):
        y = top + _PADDING / 2 + (line + 1) * _LINE - 5
        parts.append(
            f'<text x="{_SIDE_LEFT + 12}" y="{y}"><tspan class="number">{count:,}</tspan>'
            f'<tspan dx="7">{escape(code)}</tspan></text>'
        )
    return parts


def _splits(info: DatasetInfo, y: float) -> _Drawn:
    count = max(1, len(info.splits))
    width = (_WIDTH - 2 * _BOX_LEFT - (count - 1) * _SPLIT_GAP) / count
    rail, top = y + 16, y + 36
    stem = _BOX_LEFT + _BOX_WIDTH / 2
    centres = [_BOX_LEFT + k * (width + _SPLIT_GAP) + width / 2 for k in range(count)]
    left, right = min(stem, *centres), max(stem, *centres)
    parts = [f'<path d="M{stem} {y}V{rail}M{left:.1f} {rail}H{right:.1f}"/>']
    for centre, (split, images) in zip(centres, info.splits.items(), strict=True):
        parts.append(_arrow(centre, rail, top))
        parts.append(_box(centre - width / 2, top, width, 52))
        parts.append(
            f'<text class="number" x="{centre:.1f}" y="{top + 23}" text-anchor="middle">{images:,}</text>'
            f'<text class="soft" x="{centre:.1f}" y="{top + 41}" text-anchor="middle">{escape(split)}</text>'
        )
    return _Drawn(tuple(parts), top + 52)


def _box(x: float, y: float, width: float, height: float, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<rect{name} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"/>'


def _arrow(x: float, start: float, end: float) -> str:
    return (
        f'<path d="M{x:.1f} {start:.1f}V{end - 7:.1f}"/>'
        f'<path class="head" d="M{x:.1f} {end:.1f}l-4.5 -8h9z"/>'
    )
