"""The package's graph in ONNX Runtime: uint8 images in; logits, evidence and embeddings out."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from data_schemas.errors import PackageError, UsageError
from pipeline.model.package import GRAPH, Package, verification

OUTPUTS = ("logits", "evidence", "embedding")

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the graph says about N images."""

    logits: NDArray[np.float32]  # [N, K]
    evidence: NDArray[np.float32]  # [N, K, h, w]; mean over h and w, plus bias, is the logit
    embedding: NDArray[np.float32]  # [N, D]


class Runtime:
    """A loaded graph. Safe to use from several threads at once.

    Parameters
    ----------
    package
        An opened package.
    threads
        Threads of one run. Several runs side by side with one thread each use a CPU better than
        one run with several threads.
    cuda
        Run on the first CUDA device, in fp32.

    Raises
    ------
    PackageError
        If the graph can't be loaded, or its inputs and outputs aren't those of the card.
    UsageError
        If CUDA is asked for and this ONNX Runtime has none.
    """

    def __init__(self, package: Package, threads: int = 1, *, cuda: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # a waiting thread must sleep: spinning steals the core from the next request
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph, providers = package.read(GRAPH), _providers(cuda=cuda)
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions share no base class
            where = package.folder / GRAPH
            raise PackageError(f"ONNX Runtime can't load it: {error}", where=where) from error
        self._shape = (package.card.size, package.card.size, package.card.channels)
        self._check_graph(package)
        self.bias = verification(package).bias
        device = " cuda" if cuda else ""
        self.identity = f"onnxruntime {onnxruntime.__version__} fp32{device}"

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the graph.

        Parameters
        ----------
        images
            uint8 [N, size, size, channels], as ``prepare`` makes them.

        Raises
        ------
        UsageError
            If dtype or shape differ.
        PackageError
            If an answer isn't finite.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self._shape:
            raise UsageError(
                f"images are {images.dtype} {list(images.shape)}, this model takes uint8 "
                f"[N, {', '.join(map(str, self._shape))}]"
            )
        found = self._session.run(OUTPUTS, {"images": np.ascontiguousarray(images)})
        outputs = Outputs(*found)
        if not np.isfinite(outputs.logits).all():
            raise PackageError("the model answered a logit that is not a finite number")
        return outputs

    def _check_graph(self, package: Package) -> None:
        where = package.folder / GRAPH
        inputs = {node.name: node.type for node in self._session.get_inputs()}
        if inputs != {"images": "tensor(uint8)"}:
            raise PackageError(f"takes {inputs}, expected uint8 `images`", where=where)
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        if any(name not in outputs for name in OUTPUTS):
            raise PackageError(f"returns {sorted(outputs)}, expected {OUTPUTS}", where=where)
        columns = sum(len(output.columns) for output in package.card.outputs)
        if outputs["logits"][1] != columns:
            raise PackageError(
                f"returns {outputs['logits'][1]} logits, the card names {columns}", where=where
            )


def largest_difference(package: Package, runtime: Runtime) -> float:
    """Return the largest |logit here - logit at export| over the package's verification set."""
    stored = verification(package)
    return float(np.max(np.abs(runtime.run(stored.images).logits - stored.logits)))


def available_cores(cgroup_v2: Path = _CGROUP_V2, cgroup_v1: Path = _CGROUP_V1) -> int:
    """Return how many cores this process may use: its affinity, or less by a container's quota.

    A quota of 1.5 cores counts as 2. Source: Linux cgroup v2 ``cpu.max`` ("quota period" or "max period"), v1 ``cpu.cfs_quota_us``.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota_v2(cgroup_v2) or _quota_v1(cgroup_v1) or math.inf
    return max(1, math.ceil(min(cores or 1, quota)))


def _quota_v2(path: Path) -> float | None:
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _providers(*, cuda: bool) -> list[str | tuple[str, dict[str, str]]]:
    if not cuda:
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UsageError(
            "this ONNX Runtime has no CUDA provider",
            mend="install onnxruntime-gpu in place of onnxruntime, or score on the CPU",
        )
    # TF32 would round the weights to ten bits: the same image would score otherwise than on a CPU
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
