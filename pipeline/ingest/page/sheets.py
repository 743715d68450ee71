"""Shows pictures: a contact sheet by label class, refusals by code, the pairs behind the leak findings."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.dataset import REFUSALS
from data_schemas.errors import DatasetError
from data_schemas.leaks import LeakFinding, LeakReport
from pipeline.ingest.page.counts import strings
from pipeline.ingest.page.looks import Indices, spaced, thumbnails
from pipeline.ingest.page.markup import Cell, digest, picture, table
from pipeline.ingest.store import Dataset
from pipeline.ingest.write import REFUSED

_ON_THE_SHEET = 72
_MOST_CLASSES = 12
_REFUSALS_EACH = 12
_FINDINGS_EACH = 6
_PICTURES_EACH = 4
_FEW_REASONS = 3
_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Refused:
    """Refusals of one code: how many, some of them (those with a picture first), and why."""

    code: str
    count: int
    shown: tuple[dict[str, Any], ...]
    reasons: tuple[tuple[str, int], ...]
    """Each with its count; more than a few are not counted to the end."""


def contact_sheet(dataset: Dataset) -> str:
    """Return prepared images of each class of the first label, evenly spaced over the data set."""
    groups = _groups(dataset)
    each = max(4, _ON_THE_SHEET // max(1, len(groups)))
    chosen = {name: spaced(indices, each) for name, indices in groups.items()}
    jpegs = thumbnails(dataset, (int(k) for indices in chosen.values() for k in indices))
    source, split = strings(dataset, "source_sha256"), strings(dataset, "split")
    parts = []
    for name, indices in chosen.items():
        tiles = "".join(
            picture(
                jpegs[int(k)],
                f"prepared image {source[k][:12]}, {split[k]}",
                f"{digest(source[k])} {split[k]}",
            )
            for k in indices
        )
        count = f'<span class="quiet">{len(indices):,} of {len(groups[name]):,}</span>'
        parts.append(f'<h3>{escape(name)} {count}</h3><div class="tiles">{tiles}</div>')
    return "".join(parts)


def refused(dataset: Dataset) -> tuple[Refused, ...]:
    """Read ``refusals.parquet`` in batches; the commonest code first.

    Raises
    ------
    DatasetError
        If the table can't be read.
    """
    counts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    shown: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _refusal_rows(dataset):
        code = row["code"]
        counts[code] += 1
        if row["reason"] in reasons[code] or len(reasons[code]) <= _FEW_REASONS:
            reasons[code][row["reason"]] += 1
        _keep(shown[code], row)
    return tuple(
        Refused(code, counts[code], tuple(shown[code]), tuple(reasons[code].most_common()))
        for code in sorted(counts, key=lambda code: (-counts[code], code))
    )


def refusals(groups: Sequence[Refused]) -> str:
    """Return the refusals by code: how many, why, and pictures where there were any."""
    return "".join(_refusal_group(group) for group in groups)


def leaks(dataset: Dataset, report: LeakReport) -> str:
    """Return the findings by kind, the blocking first, with the pictures they speak of."""
    kinds = [
        list(some) for _, some in groupby(report.findings, lambda f: (f.severity, f.kind))
    ]  # fmt: skip
    shown = [findings[:_FINDINGS_EACH] for findings in kinds]
    names = {
        n for findings in shown for f in findings for n in f.source_sha256[:_PICTURES_EACH]
    }  # fmt: skip
    pictures = _pictures(dataset, names)
    parts = []
    for findings, some in zip(kinds, shown, strict=True):
        first = findings[0]
        badge = "blocks training" if first.severity == "blocks" else "look at it"
        parts.append(
            f'<h3><span class="badge {first.severity}">{badge}</span> '
            f"{escape(first.kind.replace('_', ' '))} "
            f'<span class="quiet">{len(findings):,}</span></h3>'
        )
        parts += [_finding(finding, pictures) for finding in some]
        if len(findings) > len(some):
            more = len(findings) - len(some)
            parts.append(f'<p class="quiet">and {more:,} more, in leaks.json</p>')
    for title, sentences in (("Looked at", report.examined), ("Not examined", report.not_examined)):
        if sentences:
            lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
            parts.append(f"<h3>{title}</h3><ul>{lines}</ul>")
    return "".join(parts)


def _refusal_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    path = dataset.folder / REFUSED
    try:
        with pq.ParquetFile(path) as stream:
            for batch in stream.iter_batches(_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("the refusals are missing or can't be read", where=path) from error


def _groups(dataset: Dataset) -> dict[str, Indices]:
    if not dataset.info.labels:
        return {"all images": np.arange(dataset.info.images)}
    label = dataset.info.labels[0]
    values = dataset.labels(label.name)
    meanings = [(k, f"{label.name}: {meaning}") for k, meaning in enumerate(label.classes)]
    meanings = [*meanings[:_MOST_CLASSES], (-1, f"{label.name}: not known")]
    found = {meaning: np.flatnonzero(values == k) for k, meaning in meanings}
    further = len(label.classes) - _MOST_CLASSES
    if further > 0:
        found[f"{label.name}: {further} more classes"] = np.flatnonzero(values >= _MOST_CLASSES)
    return {meaning: indices for meaning, indices in found.items() if len(indices)}


def _keep(shown: list[dict[str, Any]], row: dict[str, Any]) -> None:
    # those with a picture tell more
    if len(shown) < _REFUSALS_EACH:
        shown.append(row)
    elif row["thumbnail"] is not None:
        for k, other in enumerate(shown):
            if other["thumbnail"] is None:
                shown[k] = row
                return


def _refusal_group(group: Refused) -> str:
    code, reasons = escape(group.code), group.reasons
    few = len(reasons) <= _FEW_REASONS
    meaning = reasons[0][0] if len(reasons) == 1 else REFUSALS.get(group.code, "")
    parts = [
        f'<h3 id="refused-{code}"><code>{code}</code> <span class="quiet">{group.count:,}</span></h3>',
        f"<p>{escape(meaning)}</p>",
    ]
    if few and len(reasons) > 1:
        lines = (f"<li>{count:,} × {escape(reason)}</li>" for reason, count in reasons)
        parts.append(f"<ul>{''.join(lines)}</ul>")
    seen = [row for row in group.shown if row["thumbnail"] is not None]
    unseen = [row for row in group.shown if row["thumbnail"] is None]
    tiles = "".join(_refused_tile(row, few) for row in seen)
    parts.append(f'<div class="tiles">{tiles}</div>' if tiles else "")
    if unseen and few:
        parts.append(f"<p>{'; '.join(_named(row) for row in unseen)}</p>")
    elif unseen:
        rows: list[Sequence[Cell]] = [(_named(row), escape(row["reason"])) for row in unseen]
        parts.append(table("Without a picture", ("file", "reason"), rows, words="reason"))
    more = group.count - len(group.shown)
    parts.append(f'<p class="quiet">and {more:,} more</p>' if more else "")
    return "".join(parts)


def _refused_tile(row: dict[str, Any], few: bool) -> str:
    below = _named(row) if few else f"{_named(row)}<br>{escape(row['reason'])}"
    says = f"refused file {row['source_sha256'][:12]}: {row['reason']}"
    return picture(row["thumbnail"], says, below)


def _named(row: dict[str, Any]) -> str:
    frame = f", frame {row['frame']}" if row["frame"] > 0 else ""
    line = f", line {row['label_line']}" if row["label_line"] else ""
    return f"{digest(row['source_sha256'])}{frame}{line}"


def _finding(finding: LeakFinding, pictures: dict[str, tuple[bytes, str]]) -> str:
    tiles = []
    for name in dict.fromkeys(finding.source_sha256[:_PICTURES_EACH]):
        jpeg, state = pictures.get(name, (None, "no picture"))
        below = f"{digest(name)} {escape(state)}"
        if jpeg is None:
            tiles.append(f'<figure class="tile none"><figcaption>{below}</figcaption></figure>')
        else:
            tiles.append(picture(jpeg, f"image {name[:12]}, {state}", below))
    shown = f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""
    hidden = len(finding.source_sha256) - _PICTURES_EACH
    more = f'<p class="quiet">and {hidden:,} more images</p>' if hidden > 0 else ""
    return f'<div class="finding"><p>{escape(finding.sentence)}</p>{shown}{more}</div>'


def _pictures(dataset: Dataset, names: set[str]) -> dict[str, tuple[bytes, str]]:
    """Return a picture and a word for each of these files, among the images or the refusals."""
    source = strings(dataset, "source_sha256")
    places = {str(source[k]): int(k) for k in np.flatnonzero(np.isin(source, sorted(names)))[::-1]}
    jpegs = thumbnails(dataset, places.values())
    split = strings(dataset, "split")
    found = {name: (jpegs[k], str(split[k])) for name, k in places.items()}
    for row in _refusal_rows(dataset):
        name = row["source_sha256"]
        if name in names and name not in found and row["thumbnail"] is not None:
            found[name] = (row["thumbnail"], "refused")
    return found
