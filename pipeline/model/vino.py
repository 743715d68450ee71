"""Opens an ONNX graph in OpenVINO: the one place that imports it, its telemetry blocked, its precision explicit."""

import queue
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import UsageError
from data_schemas.terms import Precision
from pipeline.model.graph import OUTPUTS, Outputs, Setup, check_signature, precision_of

# `import openvino` reports itself to its maker through this package, without asking and without a
# switch of its own; a name that can't be imported leaves OpenVINO with its stub of it
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

VERSION: str = openvino.__version__.partition("-")[0]

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What is asked of the plugin. Of an int8 graph the rest, its head, stays in fp32."""

_WEIGHTED = {"Convolution", "GroupConvolution", "FullyConnected", "MatMul"}
"""Kinds of layers whose precision is the graph's."""


class OpenVinoGraph:
    """A package's graph in OpenVINO, compiled for one image at a time.

    Parameters
    ----------
    graph
        ONNX bytes.
    setup
        ``streams`` runs at once, each on ``threads`` threads of OpenVINO's own.
    precision
        Always said: without a hint OpenVINO takes bf16 wherever the processor has it.

    Raises
    ------
    UsageError
        If this processor can't do the precision.
    """

    version = VERSION

    def __init__(self, graph: bytes, setup: Setup, precision: Precision) -> None:
        core = openvino.Core()
        model = core.read_model(graph)
        inputs = {_name(port): _type(port) for port in model.inputs}
        outputs = {_name(port): list(port.get_partial_shape()) for port in model.outputs}
        columns = outputs.get("logits")
        if columns is not None:
            outputs["logits"] = [0, columns[1].get_length() if columns[1].is_static else 0]
        check_signature(setup, inputs, outputs)
        # a fixed batch of one: a core gains nothing from more, and the answer to an image
        # doesn't depend on its neighbours
        model.reshape({"images": [1, *setup.shape]})
        self._compiled = core.compile_model(model, "CPU", _properties(setup, precision))
        self.precision = self._read_back()
        if precision == "bf16" and self.precision == "fp32":
            raise UsageError("this processor has no bfloat16 instructions: OpenVINO runs in fp32")
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(setup.streams):
            self._idle.put(self._compiled.create_infer_request())
        # alone: what OpenVINO's binding sets up at its very first run deadlocks between two threads,
        # one that waits for Python's lock with C++'s guard held, and one the other way round
        self.run(np.zeros((1, *setup.shape), np.uint8))

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run uint8 [N, S, S, C], one image after the other."""
        request = self._idle.get()
        try:
            rows = [self._one(request, image) for image in images]
        finally:
            self._idle.put(request)
        return Outputs(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    def _one(self, request: Any, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request.infer({"images": np.ascontiguousarray(image[None])}, share_inputs=True)
        # copied: the next image of this request is written to the same place
        return [np.array(request.get_tensor(name).data, np.float32) for name in OUTPUTS]

    def _read_back(self) -> str:
        """Return the precision of what was compiled, by its executable graph and its property."""
        types = {
            layer["runtimePrecision"].astype(str)
            for layer in (
                node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()
            )
            if layer["layerType"].astype(str) in _WEIGHTED
        }
        found = precision_of(types)
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        # what the layers read decides; a hint below fp32 lets other layers round, too
        return found if found != "fp32" or hint == "f32" else f"fp32 with hint {hint}"


def _properties(setup: Setup, precision: Precision) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "NUM_STREAMS": setup.streams,
        "INFERENCE_NUM_THREADS": setup.streams * setup.threads,
        # pinned threads of several processes would all sit on the first cores
        "ENABLE_CPU_PINNING": False,
    }


def _name(port: Any) -> str:
    return str(port.get_any_name())


def _type(port: Any) -> str:
    kind = port.get_element_type()
    return "uint8" if kind == openvino.Type.u8 else str(kind.get_type_name())
