"""Writes a package's graph in 8-bit integers (static QDQ), calibrated on training images. Needs onnx.

ONNX Runtime's quantiser, because its graph is one that both runtimes run in integers: weights per output
channel, symmetric; activations by the range seen on the images. What turns features into evidence and
logits stays in fp32, so that the evidence's mean plus the bias is the logit as exactly as before.

Rounding a weight moves what its channel answers on average. That shift is known from the mean of the
layer's input over the calibration images, and is taken back in the layer's bias (Nagel et al. 2019,
Data-Free Quantization, section 3.2, with measured means). What is left of it at the logits is measured
and taken back in the evidence.

The first convolutions see few channels of a wide range, and what they round is carried through all others:
they stay in fp32, one of them, or as many more as it takes until the calibration images are answered
as closely as the rule for reduced precisions asks.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pipeline.model.agreement import Answers, answers, compare, objection
from pipeline.model.export_check import further_rows
from pipeline.model.graph import OUTPUTS
from pipeline.model.kinds import kind_of
from pipeline.model.package import Package, kept_files, open_package, write_package
from pipeline.model.runtime import Runtime
from pipeline.model.session import open_session, quantiser
from pipeline.model.sums import GRAPH, INT8_GRAPH

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_QUANTISED = (
    *_WEIGHTED,
    "Add",
    "Relu",
    "Clip",
    "Concat",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
)
_MOST = 127

FIRST_LAYERS = (1, 3, 5, 9)
"""So many convolutions at the start stay in fp32; the next number is tried if the answers aren't close."""

Enough = Callable[[NDArray[np.float32], NDArray[np.float32]], bool]
"""Tells whether logits [N, K] are close enough to those that they should be."""


def with_int8(
    package: Package,
    calibration: NDArray[np.uint8],
    measured: NDArray[np.uint8],
    split: str,
    folder: Path,
) -> Package:
    """Write the package with an 8-bit graph, and with rows in its card for all precisions of this machine.

    Parameters
    ----------
    package
        Opened; a graph of 8 bits that it has is replaced.
    calibration
        Images of the training split, uint8 [n, S, S, C].
    measured, split
        Images on which the precisions are compared with ONNX Runtime in fp32, and where they are from.
    folder
        Where the new package goes; must not exist, or be empty.

    Raises
    ------
    PackageError
        If ``folder`` holds something.
    """

    def enough(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> bool:
        agreed = compare(package.card, wanted, Answers(found, evidence=0.0))
        return not objection("int8", agreed)

    graph = quantise(package.read(GRAPH), calibration, enough)
    base = Runtime(package)
    files = kept_files(package) | {INT8_GRAPH: graph}
    note = f"8-bit graph added to package {package.sha256}"
    notes = (*(one for one in package.card.notes if not one.startswith("8-bit graph")), note)
    with tempfile.TemporaryDirectory(prefix="hilum-int8-") as scratch:
        trial = Path(scratch) / "package"
        write_package(trial, files, package.card, package.contract)
        rows = further_rows(
            open_package(trial), measured, answers(base, measured).logits, split, base.identity
        )
    new = {kind_of(row.precision) for row in rows}
    kept = [row for row in package.card.checks if kind_of(row.precision) not in new]
    card = package.card.model_copy(update={"checks": (*kept, *rows), "notes": notes})
    write_package(folder, files, card, package.contract)
    return open_package(folder)


def quantise(
    graph: bytes, images: NDArray[np.uint8], enough: Enough = lambda _found, _wanted: True
) -> bytes:
    """Return the graph with 8-bit weights and activations, as ONNX bytes.

    Parameters
    ----------
    graph
        ``model.onnx`` of a package.
    images
        Prepared images that ranges are measured on, uint8 [n, S, S, C]: of the training split.
    enough
        Told the logits [n, K] of ``images`` by the new graph and by the old one; as long as it says
        no, more convolutions at the start stay in fp32.
    """
    with tempfile.TemporaryDirectory(prefix="hilum-int8-") as folder:
        scratch = Path(folder)
        ready = _prepared(graph, scratch)
        outside = _outside(ready)
        layers = [n.name for n in ready.graph.node if n.op_type == "Conv" and n.name not in outside]
        wanted, data = _logits(graph, images), b""
        # some of them must be left to be rounded
        for count in [number for number in FIRST_LAYERS if number < len(layers)] or [0]:
            model = onnx.ModelProto()
            model.CopyFrom(ready)
            found = _rounded_to_8_bits(model, images, outside | set(layers[:count]), scratch)
            _take_back(found, wanted - _logits(found.SerializeToString(), images))
            data = found.SerializeToString(deterministic=True)
            if enough(_logits(data, images), wanted):
                break
    return data


def _prepared(graph: bytes, scratch: Path) -> Any:
    """Return the model with folded normalisations, known shapes and named nodes."""
    plain, ready = scratch / "plain.onnx", scratch / "ready.onnx"
    folded = onnx.load_from_string(graph)
    _fold_normalisations(folded)
    onnx.save(folded, plain)
    quantiser().pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    model = onnx.load(ready)
    _name_nodes(model)
    return model


def _rounded_to_8_bits(model: Any, images: NDArray[np.uint8], kept: set[str], scratch: Path) -> Any:
    """Return the model in 8 bits but for the nodes ``kept``; ``model`` itself is changed, too."""
    tool = quantiser()
    ready, done = scratch / "corrected.onnx", scratch / "done.onnx"
    _correct_biases(model, images, kept)
    onnx.save(model, ready)
    tool.quantize_static(
        str(ready),
        str(done),
        tool.feed([{"images": image[None]} for image in images]),
        quant_format=tool.qdq,
        op_types_to_quantize=list(_QUANTISED),
        nodes_to_exclude=sorted(kept),
        per_channel=True,
        activation_type=tool.uint8,
        weight_type=tool.int8,
    )
    found = onnx.load(done)
    for name in ("doc_string", "metadata_props"):
        found.ClearField(name)
    found.producer_name, found.producer_version = "hilum", ""
    return found


def _take_back(model: Any, missing: NDArray[np.float32]) -> None:
    """Add to the evidence, and so to the logits, what they lack on average: ``missing`` is [n, K]."""
    shift = missing.mean(0, dtype=np.float64)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in _evidence_layers(model):
        bias = numpy_helper.to_array(values[node.input[2]]) if len(node.input) == 3 else 0.0
        name = f"{node.name}|settled"
        settled = np.asarray(bias + shift, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(settled, name))
        node.input[:] = [*node.input[:2], name]


def _evidence_layers(model: Any) -> list[Any]:
    """Return the convolutions that make the evidence: one, or one for each network and view."""
    made = {output: node for node in model.graph.node for output in node.output}
    found, seen, waiting = [], set(), ["evidence"]
    while waiting:
        node = made.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "Conv":
            found.append(node)
        else:
            waiting += node.input
    return found


def _logits(graph: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = open_session(graph)
    return np.concatenate([session.run(["logits"], {"images": one[None]})[0] for one in images])


def _name_nodes(model: Any) -> None:
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"


def _fold_normalisations(model: Any) -> None:
    """Fold batch normalisation into the convolution before it, also where several views share weights.

    Both runtimes do so by themselves in fp32; an 8-bit graph must have it before ranges are measured,
    or each layer is rounded twice.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    made = {output: node for node in graph.node for output in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        layer = made.get(norm.input[0])
        shared = readers[norm.input[0]] != 1 or norm.input[0] in OUTPUTS
        if layer is None or layer.op_type != "Conv" or shared:
            continue
        weight, bias = layer.input[1], layer.input[2] if len(layer.input) == 3 else ""
        names = f"{weight}|{norm.input[1]}", f"{weight}|{norm.input[1]}|bias"
        if names[0] not in values:
            epsilon = next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5)
            scale, shift, mean, variance = (
                numpy_helper.to_array(values[name]).astype(np.float64) for name in norm.input[1:5]
            )
            scale = scale / np.sqrt(variance + epsilon)
            before = numpy_helper.to_array(values[bias]) if bias else np.zeros(1)
            whole = numpy_helper.to_array(values[weight]).astype(np.float64)
            for name, found in (
                (names[0], whole * scale[:, None, None, None]),
                (names[1], (before - mean) * scale + shift),
            ):
                values[name] = numpy_helper.from_array(found.astype(np.float32), name)
                graph.initializer.append(values[name])
        layer.input[:] = [layer.input[0], *names]
        layer.output[0] = norm.output[0]
        graph.node.remove(norm)
    used = {name for node in graph.node for name in node.input}
    for tensor in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(tensor)


def _outside(model: Any) -> set[str]:
    """Return the nodes before the first layer with weights, and from the last ones to the outputs."""
    nodes = model.graph.node
    made = {output: node for node in nodes for output in node.output}
    kept: set[str] = set()
    waiting = [made[name] for name in OUTPUTS]
    while waiting:
        node = waiting.pop()
        if node.name in kept:
            continue
        kept.add(node.name)
        # the layer that makes the evidence is the last one that stays in fp32
        if node.op_type not in (*_WEIGHTED, "Relu"):
            waiting += [made[name] for name in node.input if name in made and _is_tail(made[name])]
    reached = {"images"}
    for node in nodes:
        if node.op_type not in _WEIGHTED and reached & set(node.input):
            kept.add(node.name)
            reached |= set(node.output)
    return kept


def _is_tail(node: Any) -> bool:
    return node.op_type not in ("Relu", "Clip", "BatchNormalization", "MaxPool")


def _correct_biases(model: Any, images: NDArray[np.uint8], kept: set[str]) -> None:
    """Take back in each convolution's bias what rounding its weights will move its channels by."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and node.name not in kept and node.input[1] in values
    ]
    for node in layers:
        if len(node.input) == 2:
            node.input.append(f"{node.input[1]}|bias")
        name = node.input[2]
        if name not in values:
            zeros = np.zeros(values[node.input[1]].dims[0], np.float32)
            values[name] = numpy_helper.from_array(zeros, name)
            model.graph.initializer.append(values[name])
            values[name] = model.graph.initializer[-1]
    means = _input_means(model, sorted({node.input[0] for node in layers}), images)
    shifts: dict[str, list[NDArray[np.float64]]] = {}
    for node in layers:
        weight = numpy_helper.to_array(values[node.input[1]]).astype(np.float64)
        groups = next((one.i for one in node.attribute if one.name == "group"), 1)
        moved = (_rounded(weight) - weight).sum(axis=(2, 3))  # [out, in of the group]
        inputs = means[node.input[0]].reshape(groups, -1)
        of_group = np.repeat(inputs, weight.shape[0] // groups, axis=0)
        shifts.setdefault(node.input[2], []).append((moved * of_group).sum(axis=1))
    for name, found in shifts.items():
        bias = numpy_helper.to_array(values[name])
        settled = (bias - np.mean(found, axis=0)).astype(bias.dtype)
        values[name].CopyFrom(numpy_helper.from_array(settled, name))


def _rounded(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights [out, ...] as 8 bits will hold them: symmetric, a scale for each output channel."""
    scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / _MOST
    scale[scale == 0] = 1
    return np.asarray(np.round(weight / scale) * scale)


def _input_means(
    model: Any, names: list[str], images: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each channel of inner tensors [n, C, h, w] over images."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(watched.SerializeToString())
    total = {name: np.zeros(1) for name in names}
    for image in images:
        for name, found in zip(names, session.run(names, {"images": image[None]}), strict=True):
            total[name] = total[name] + found.mean((0, 2, 3), dtype=np.float64)
    return {name: value / len(images) for name, value in total.items()}
