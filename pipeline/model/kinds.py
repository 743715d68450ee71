"""Kinds of runtime: which runtime in which precision, how a score names it, whether this machine has it."""

import importlib.util
from dataclasses import dataclass

from data_schemas.errors import UsageError
from data_schemas.terms import Precision, RuntimeName


@dataclass(frozen=True, slots=True)
class Kind:
    """A runtime and the precision that it is set to."""

    runtime: RuntimeName
    precision: Precision

    def __str__(self) -> str:
        """Return ``runtime precision``."""
        return f"{self.runtime} {self.precision}"


BASE = Kind("onnxruntime", "fp32")
"""What every installation has, and what every other kind is compared with."""

KINDS = (
    BASE,
    Kind("cuda", "fp32"),
    Kind("openvino", "fp32"),
    Kind("openvino", "bf16"),
    Kind("openvino", "int8"),
    Kind("onnxruntime", "int8"),
)
"""Every kind that a graph can be opened in."""


GPU_BATCH = 8
"""Images of one run on a GPU, if nobody says: enough to fill it, few enough to wait for."""


def batch_for(kind: Kind) -> int:
    """Return how many images one run takes: on a CPU one, since a core gains nothing from more."""
    return GPU_BATCH if kind.runtime == "cuda" else 1


def identity_of(kind: Kind, version: str, batch: int = 1) -> str:
    """Return how scores and receipts name a kind, as in ``onnxruntime 1.32.0 fp32``.

    A batch is part of it, ``onnxruntime 1.32.0 fp32 cuda batch 8``: the same image may come out
    otherwise in the last bit from a run of another shape.
    """
    runtime = "onnxruntime" if kind.runtime == "cuda" else kind.runtime
    words = [runtime, version, kind.precision]
    words += ["cuda"] if kind.runtime == "cuda" else []
    words += ["batch", str(batch)] if batch > 1 else []
    return " ".join(words)


def batch_of(identity: str) -> int:
    """Return how many images one run took of the runtime that a score was made by."""
    _, _, batch = identity.partition(" batch ")
    return int(batch) if batch.isdecimal() else 1


def kind_of(identity: str) -> Kind:
    """Return the kind that a score was made by.

    Raises
    ------
    UsageError
        If no runtime of ours is named so.
    """
    match identity.partition(" batch ")[0].split():
        case ["onnxruntime", _, "fp32", "cuda"]:
            return Kind("cuda", "fp32")
        case [runtime, _, precision]:
            for kind in KINDS:
                if (kind.runtime, kind.precision) == (runtime, precision) and runtime != "cuda":
                    return kind
    raise UsageError(f"`{identity}` is no runtime that this version of hilum knows")


def missing(kind: Kind, batch: int = 1) -> str:
    """Return why this machine can't open a kind for ``batch`` images a run, in words; empty if it can."""
    if kind.runtime == "openvino" and batch > 1:
        return f"OpenVINO runs one image at a time, not {batch}"
    if kind.runtime == "openvino":
        absent = importlib.util.find_spec("openvino") is None
        return "OpenVINO is not installed (the extra `openvino`)" if absent else ""
    if kind.runtime == "cuda":
        from pipeline.model.session import has_cuda

        return "" if has_cuda() else "this ONNX Runtime has no CUDA provider"
    return ""
