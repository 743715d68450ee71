"""What the leak doctor knows of every image without its pixels, and how it names one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.leaks import LeakFinding, LeakKind
from pipeline.ingest.store import Dataset

Strings = NDArray[np.str_]
Ints = NDArray[np.int64]

SEALED = ("test", "external")
"""Splits that no training ever sees. Between two of them nothing can leak."""

_NAMED = 12
_PLACES = ("external", "test", "calibration", "tune", "train")


@dataclass(frozen=True)
class Images:
    """Columns of the manifest, one value an image; labels as int64 with -1 where none is known."""

    source: Strings
    pixel: Strings
    patient: Strings
    split: Strings
    laterality: Strings
    line: Ints
    labels: dict[str, Ints]
    official: bool
    """The test split is a published one, which stays as it is."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def has_patients(self) -> bool:
        """Whether any patient has more than one file; else patients may not have been given."""
        return len(np.unique(self.patient)) < len(np.unique(self.source))

    def leaks_between(self, first: int, second: int) -> bool:
        """Tell whether something can leak between two images."""
        return leaks_between(str(self.split[first]), str(self.split[second]))

    def most_sealed(self, images: Iterable[int]) -> list[int]:
        """Return images by split, the most sealed first."""
        return sorted(images, key=lambda k: (sealed_rank(str(self.split[k])), str(self.source[k])))

    def named(self, image: int) -> str:
        """Return how a person finds an image: split, digest and, if there is one, line."""
        return f"{self.split[image]} {named(str(self.source[image]), int(self.line[image]))}"

    def differing(self, images: list[int]) -> list[str]:
        """Return one phrase for every label of which these images hold different known values."""
        phrases = []
        for name, values in self.labels.items():
            known = sorted({int(values[k]) for k in images if values[k] >= 0})
            if len(known) > 1:
                phrases.append(f"`{name}` {' and '.join(map(str, known))}")
        return phrases

    def finding(
        self, kind: LeakKind, images: list[int], sentence: str, *, value: float | None = None
    ) -> LeakFinding:
        """Return a finding about these images; a published split can only be warned about."""
        warns = self.official or kind in ("conflicting_label", "shortcut", "laterality")
        return LeakFinding(
            kind=kind,
            severity="warns" if warns else "blocks",
            sentence=sentence,
            source_sha256=tuple(str(self.source[k]) for k in images),
            label_lines=tuple(int(self.line[k]) for k in images),
            patients=tuple(dict.fromkeys(str(self.patient[k]) for k in images)),
            value=value,
        )


def leaks_between(first: str, second: str) -> bool:
    """Tell whether two splits differ and at least one of them is not sealed."""
    return first != second and not (first in SEALED and second in SEALED)


def sealed_rank(split: str) -> int:
    """Return how sealed a split is: 0 the most."""
    return _PLACES.index(split)


def named(source_sha256: str, line: int) -> str:
    """Return the first digits of a file's digest and, if there is one, its line of the label table."""
    return source_sha256[:_NAMED] + (f" (line {line})" if line else "")


def images_of(dataset: Dataset) -> Images:
    """Read the columns of a data set."""

    def strings(column: str) -> Strings:
        return np.array(dataset.manifest[column].to_pylist(), dtype=np.str_)

    lines: NDArray[Any] = dataset.manifest["label_line"].to_numpy()
    return Images(
        source=strings("source_sha256"),
        pixel=strings("pixel_sha256"),
        patient=strings("patient"),
        split=strings("split"),
        laterality=strings("laterality"),
        line=lines.astype(np.int64),
        labels={label.name: dataset.labels(label.name) for label in dataset.info.labels},
        official=dataset.info.published_test,
    )
