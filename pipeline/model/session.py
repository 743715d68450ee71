"""Opens an ONNX graph in ONNX Runtime: the one place that imports it, its telemetry off, its threads explicit."""

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# ONNX Runtime 1.29 and later reports the graph's digest and this machine to its maker from the
# moment it is imported; this variable, set before, is its only switch
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - not a setting of ours

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from data_schemas.errors import UsageError
from pipeline.model.graph import OUTPUTS, Outputs, Setup, check_signature, precision_of

VERSION: str = onnxruntime.__version__

_WEIGHTED = ("Conv", "MatMul", "Gemm")
"""What the names of operators with weights hold; these decide a graph's precision."""


def open_session(
    graph: bytes | Path, *, threads: int = 1, cuda: bool = False, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open a graph.

    Parameters
    ----------
    graph
        ONNX bytes, or the file that holds them.
    threads
        Threads of one run. With one, sums are added in one order: the same answer everywhere.
    cuda
        Run on the first CUDA device instead of the CPU.
    profile
        Folder for a profile of what is run, until ``end_profiling``.

    Raises
    ------
    UsageError
        If CUDA is asked for and this ONNX Runtime has none.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # a waiting thread must sleep: spinning steals the core from the next request
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # fp32 stays fp32 on ARM, too
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "run")
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), options, providers=_providers(cuda=cuda)
    )


def has_cuda() -> bool:
    """Return whether this ONNX Runtime was built for CUDA."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def quantiser() -> SimpleNamespace:
    """Return ONNX Runtime's quantiser; it needs onnx, which the served image doesn't have."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Feed:
        """Hands out one input after the other."""

        def __init__(self, inputs: list[dict[str, Any]]) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next input, ``None`` at the end."""
            return next(self._inputs, None)

    return SimpleNamespace(
        pre_process=quant_pre_process,
        quantize_static=quantization.quantize_static,
        feed=Feed,
        qdq=quantization.QuantFormat.QDQ,
        uint8=quantization.QuantType.QUInt8,
        int8=quantization.QuantType.QInt8,
    )


class OnnxGraph:
    """A package's graph in ONNX Runtime. Runs on the threads that call it.

    ONNX Runtime has no question for a session's precision; its profile of one run names every
    kernel that ran, with the types that it read. That is what ``precision`` says.
    """

    version = VERSION

    def __init__(self, graph: bytes | Path, setup: Setup, *, cuda: bool = False) -> None:
        with tempfile.TemporaryDirectory(prefix="hilum-profile-") as scratch:
            self._session = open_session(
                graph, threads=setup.threads, cuda=cuda, profile=Path(scratch)
            )
            try:
                inputs = {
                    node.name: node.type.removeprefix("tensor(").removesuffix(")")
                    for node in self._session.get_inputs()
                }
                outputs = {node.name: node.shape for node in self._session.get_outputs()}
                check_signature(setup, inputs, outputs)
                self.run(np.zeros((1, *setup.shape), np.uint8))
            finally:
                profile = Path(self._session.end_profiling())
            kernels = _kernels(json.loads(profile.read_bytes()))
        self.precision = precision_of({kind for _, kind in kernels})
        wanted = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        if {provider for provider, _ in kernels} - {wanted}:
            raise UsageError("ONNX Runtime doesn't run this graph on the CUDA device")

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run uint8 [N, S, S, C]."""
        return Outputs(*self._session.run(OUTPUTS, {"images": np.ascontiguousarray(images)}))


def _kernels(events: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Return (provider, type that is read) of every operator with weights in a profile."""
    found = set()
    for event in events:
        facts = event.get("args", {})
        name = facts.get("op_name", "")
        if event.get("cat") == "Node" and any(word in name for word in _WEIGHTED):
            kind = next(iter(facts["input_type_shape"][0]))
            found.add((facts["provider"], kind))
    return found


def _providers(*, cuda: bool) -> list[str | tuple[str, dict[str, str]]]:
    if not cuda:
        return ["CPUExecutionProvider"]
    if not has_cuda():
        raise UsageError(
            "this ONNX Runtime has no CUDA provider",
            mend="install onnxruntime-gpu in place of onnxruntime, or score on the CPU",
        )
    # TF32 would round the weights to ten bits: the same image would score otherwise than on a CPU
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
