"""The seam of runtimes: what an opened graph takes and gives, whatever runs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import PackageError

OUTPUTS = ("logits", "evidence", "embedding")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the graph says about N images."""

    logits: NDArray[np.float32]  # [N, K]
    evidence: NDArray[np.float32]  # [N, K, h, w]; mean over h and w, plus bias, is the logit
    embedding: NDArray[np.float32]  # [N, D]

    def rows(self, start: int, stop: int) -> "Outputs":
        """Return what it says about some of the images."""
        return Outputs(
            self.logits[start:stop], self.evidence[start:stop], self.embedding[start:stop]
        )


def joined(parts: "Sequence[Outputs]") -> Outputs:
    """Return what was said about several lots of images as one."""
    return Outputs(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.evidence for part in parts]),
        np.concatenate([part.embedding for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class Setup:
    """What a graph is opened for."""

    shape: tuple[int, int, int]
    """Of one image: size, size, channels."""
    columns: int
    """Of the logits."""
    where: Path
    """The graph's file, for messages."""
    threads: int = 1
    """Of one run."""
    streams: int = 1
    """Runs at once."""


class Graph(Protocol):
    """An opened graph; safe to use from several threads at once."""

    @property
    def version(self) -> str:
        """Of the runtime."""
        ...

    @property
    def precision(self) -> str:
        """As read back from what was compiled: fp32, bf16, fp16 or int8."""
        ...

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run uint8 [N, S, S, C]."""
        ...


def check_signature(
    setup: Setup, inputs: Mapping[str, str], outputs: Mapping[str, Sequence[Any]]
) -> None:
    """Check a graph's inputs (name -> type) and outputs (name -> shape) against the card.

    Raises
    ------
    PackageError
        If they aren't those of a package.
    """
    if inputs != {"images": "uint8"}:
        raise PackageError(f"takes {dict(inputs)}, expected uint8 `images`", where=setup.where)
    if any(name not in outputs for name in OUTPUTS):
        raise PackageError(f"returns {sorted(outputs)}, expected {OUTPUTS}", where=setup.where)
    columns = outputs["logits"][1]
    if columns != setup.columns:
        raise PackageError(
            f"returns {columns} logits, the card names {setup.columns}", where=setup.where
        )


def precision_of(types: set[str]) -> str:
    """Return the precision of a graph whose convolutions and products read these types."""
    for name, kinds in _READ.items():
        if types & kinds:
            return name
    return "fp32"


_READ = {
    "int8": {"int8", "uint8", "i8", "u8"},
    "fp16": {"float16", "f16"},
    "bf16": {"bfloat16", "bf16"},
}
# the lowest precision found names the whole: the head of an int8 graph stays in fp32
