"""Opens an ONNX graph in ONNX Runtime: the one place that imports it, its telemetry off, its threads explicit."""

import os
from pathlib import Path

# ONNX Runtime 1.29 and later reports the graph's digest and this machine to its maker from the
# moment it is imported; this variable, set before, is its only switch
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - not a setting of ours

import onnxruntime

from data_schemas.errors import UsageError

VERSION: str = onnxruntime.__version__


def open_session(
    graph: bytes | Path, *, threads: int = 1, cuda: bool = False
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
    return onnxruntime.InferenceSession(
        graph if isinstance(graph, bytes) else str(graph), options, providers=_providers(cuda=cuda)
    )


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
