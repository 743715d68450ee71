"""Shows pictures: a contact sheet by label class, refusals by code, the pairs behind the leak findings."""

from collections import defaultdict
from collections.abc import Sequence
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
_BATCH = 2048


@dataclass(frozen=True, slots=True)
class Refused:
    """Refusals of one code: how many, the first of them, and those that have a picture."""

    code: str
    count: int
    shown: tuple[dict[str, Any], ...]
    reasons: tuple[tuple[str, int], ...]


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
    path = dataset.folder / REFUSED
    counts: dict[str, int] = defaultdict(int)
    reasons: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    shown: dict[str, list[dict[str, Any]]] = defaultdict(list)
    try:
        with pq.ParquetFile(path) as stream:
            for batch in stream.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    counts[row["code"]] += 1
                    reasons[row["code"]][row["reason"]] += 1
                    _keep(shown[row["code"]], row)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError("the refusals are missing or can't be read", where=path) from error
    return tuple(
        Refused(
            code,
            counts[code],
            tuple(shown[code]),
            tuple(sorted(reasons[code].items(), key=lambda pair: (-pair[1], pair[0]))),
        )
        for code in sorted(counts, key=lambda code: (-counts[code], code))
    )


def refusals(groups: Sequence[Refused]) -> str:
    """Return the refusals by code: how many, why, and pictures where there were any."""
    return "".join(_refusal_group(group) for group in groups)


def leaks(dataset: Dataset, report: LeakReport) -> str:
    """Return the findings by kind, the blocking first, with the pictures they speak of."""
    source = strings(dataset, "source_sha256")
    place = {name: k for k, name in reversed(list(enumerate(source.tolist())))}
    parts = []
    for (severity, kind), some in groupby(report.findings, lambda f: (f.severity, f.kind)):
        findings = list(some)
        shown = findings[:_FINDINGS_EACH]
        badge = "blocks training" if severity == "blocks" else "look at it"
        parts.append(
            f'<h3><span class="badge {severity}">{badge}</span> {escape(kind.replace("_", " "))} '
            f'<span class="quiet">{len(findings):,}</span></h3>'
        )
        parts.append("".join(_finding(dataset, finding, place) for finding in shown))
        if len(findings) > len(shown):
            parts.append(
                f'<p class="quiet">and {len(findings) - len(shown):,} more, in leaks.json</p>'
            )
    for title, sentences in (("Looked at", report.examined), ("Not examined", report.not_examined)):
        if sentences:
            lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
            parts.append(f"<h3>{title}</h3><ul>{lines}</ul>")
    return "".join(parts)


def _groups(dataset: Dataset) -> dict[str, Indices]:
    if not dataset.info.labels:
        return {"all images": np.arange(dataset.info.images)}
    label = dataset.info.labels[0]
    values = dataset.labels(label.name)
    meanings = [(k, f"{label.name}: {meaning}") for k, meaning in enumerate(label.classes)]
    meanings = [*meanings[:_MOST_CLASSES], (-1, f"{label.name}: not known")]
    found = {meaning: np.flatnonzero(values == k) for k, meaning in meanings}
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
    title = f'<h3 id="refused-{escape(group.code)}"><code>{escape(group.code)}</code> <span class="quiet">{group.count:,}</span></h3>'
    meaning = f"<p>{escape(REFUSALS.get(group.code, ''))}</p>"
    seen = [row for row in group.shown if row["thumbnail"] is not None]
    tiles = "".join(
        picture(
            row["thumbnail"],
            f"refused file {row['source_sha256'][:12]}: {row['reason']}",
            f"{_named(row)}{escape(row['reason'])}",
        )
        for row in seen
    )
    pictures = f'<div class="tiles">{tiles}</div>' if tiles else ""
    more = group.count - len(seen)
    rest = f'<p class="quiet">and {more:,} more</p>' if tiles and more else ""
    return f"{title}{meaning}{pictures}{rest}{'' if more == 0 else _unseen(group)}"


def _unseen(group: Refused) -> str:
    lines = [row for row in group.shown if row["thumbnail"] is None]
    if not lines:
        return ""
    rows: list[Sequence[Cell]] = [
        (_named(row, ""), f'<span class="reason">{escape(row["reason"])}</span>') for row in lines
    ]
    hidden = group.count - len(group.shown)
    quiet = f"and {hidden:,} more" if hidden > 0 else ""
    return table(f"{group.code}: files without a picture", ("file", "reason"), rows, quiet=quiet)


def _named(row: dict[str, Any], end: str = "<br>") -> str:
    frame = f" frame {row['frame']}" if row["frame"] >= 0 else ""
    line = f", line {row['label_line']}" if row["label_line"] else ""
    return f"{digest(row['source_sha256'])}{frame}{line}{end}"


def _finding(dataset: Dataset, finding: LeakFinding, place: dict[str, int]) -> str:
    tiles = []
    for name in finding.source_sha256[:_PICTURES_EACH]:
        index = place.get(name)
        if index is None:
            tiles.append(f'<figure class="tile none"><figcaption>{digest(name)}<br>not among the images</figcaption></figure>')  # fmt: skip
            continue
        jpeg = thumbnails(dataset, [index])[index]
        split = dataset.manifest["split"][index].as_py()
        tiles.append(
            picture(jpeg, f"image {name[:12]}, {split}", f"{digest(name)} {escape(split)}")
        )
    pictures = f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""
    hidden = len(finding.source_sha256) - _PICTURES_EACH
    more = f'<p class="quiet">and {hidden:,} more images</p>' if hidden > 0 else ""
    return f'<div class="finding"><p>{escape(finding.sentence)}</p>{pictures}{more}</div>'
