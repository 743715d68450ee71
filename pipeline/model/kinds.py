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


def identity_of(kind: Kind, version: str) -> str:
    """Return how scores and receipts name a kind, as in ``onnxruntime 1.32.0 fp32``."""
    if kind.runtime == "cuda":
        return f"onnxruntime {version} {kind.precision} cuda"
    return f"{kind.runtime} {version} {kind.precision}"


def kind_of(identity: str) -> Kind:
    """Return the kind that a score was made by.

    Raises
    ------
    UsageError
        If no runtime of ours is named so.
    """
    match identity.split():
        case ["onnxruntime", _, "fp32", "cuda"]:
            return Kind("cuda", "fp32")
        case [runtime, _, precision]:
            for kind in KINDS:
                if (kind.runtime, kind.precision) == (runtime, precision) and runtime != "cuda":
                    return kind
    raise UsageError(f"`{identity}` is no runtime that this version of hilum knows")


def missing(kind: Kind) -> str:
    """Return why this machine can't open a kind, in words; empty if it can."""
    if kind.runtime == "openvino":
        absent = importlib.util.find_spec("openvino") is None
        return "OpenVINO is not installed (the extra `openvino`)" if absent else ""
    if kind.runtime == "cuda":
        from pipeline.model.session import has_cuda

        return "" if has_cuda() else "this ONNX Runtime has no CUDA provider"
    return ""
