"""From a torch network to a model package: ONNX graph, weights, documents, proof that both agree."""

import copy
import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from numpy.typing import NDArray

from data_schemas.card import Card
from data_schemas.contract import Contract
from data_schemas.errors import PackageError
from pipeline.model.export_check import RealImages, check_export, further_rows
from pipeline.model.graph import OUTPUTS
from pipeline.model.package import (
    Verification,
    check_documents,
    open_package,
    pack_verification,
    write_package,
)
from pipeline.model.reference import Reference, pack_reference
from pipeline.model.session import open_session
from pipeline.model.sums import GRAPH, REFERENCE, VERIFICATION, WEIGHTS

OPSET = 20  # the first with Gelu as one operator
TOLERANCE = 1e-4
"""Largest |difference| allowed between torch and ONNX Runtime, and between a logit and its evidence."""

KEPT_IMAGES = 8
"""Images of the verification set that travel in the package."""


@dataclass(frozen=True, slots=True)
class _Answers:
    logits: NDArray[np.float32]
    evidence: NDArray[np.float32]
    embedding: NDArray[np.float32]


def export_package(
    network: torch.nn.Module,
    images: NDArray[np.uint8],
    card: Card,
    contract: Contract,
    folder: Path,
    real: RealImages | None = None,
    reference: Reference | None = None,
) -> Card:
    """Export a network and check the exported graph against it on real images.

    Parameters
    ----------
    network
        ``forward(images uint8 [N, S, S, C]) -> (logits [N, K], evidence [N, K, h, w],
        embedding [N, D])`` with ``logits == evidence.mean((2, 3)) + bias``.
    images
        Prepared images, uint8 [n, S, S, C], n >= 1; the first of them travel with the package.
    card, contract
        The documents; ``onnx_max_logit_difference``, ``checks`` and ``parameters`` of the card are
        filled here.
    folder
        Where the package goes; must not exist, or be empty.
    real
        Images of the data set, on which the package is checked from bytes to verdict; ``None``:
        it isn't, and the card has no ``checks``.
    reference
        What the network's own images look like to it; ``None``: the package keeps none.

    Returns
    -------
    Card
        As written.

    Raises
    ------
    PackageError
        If the documents disagree, the graph's answers differ from torch's by more than 1e-4, or
        the evidence doesn't sum to the logit. Nothing is written then.
    TrainingError
        If the package doesn't answer as the network does on ``real``. Nothing is written then.
    """
    check_documents(card, contract, where=folder)
    _check_images(images, card)
    parameters = sum(value.numel() for value in network.parameters())
    # a copy on the CPU in fp32: a GPU rounds convolutions to TF32, which is no reference
    settled = copy.deepcopy(network).cpu().float().eval()
    expected = _torch_answers(settled, images)
    graph = _graph(settled, images)
    weights = _weights(settled)
    bias = _bias(expected, card)
    difference = _compare(expected, _onnx_answers(graph, images))
    filled = card.model_copy(
        update={"onnx_max_logit_difference": difference, "parameters": parameters}
    )
    kept = Verification(images[:KEPT_IMAGES], expected.logits[:KEPT_IMAGES], bias)
    files = {GRAPH: graph, WEIGHTS: weights, VERIFICATION: pack_verification(kept)}
    if reference is not None:
        files[REFERENCE] = pack_reference(reference)
    if real is not None:
        _check_images(real.pixels, card)
        with tempfile.TemporaryDirectory() as scratch:
            trial = Path(scratch) / "package"
            write_package(trial, files, filled, contract)
            opened = open_package(trial)

            def ask(asked: NDArray[np.uint8]) -> NDArray[np.float32]:
                return _torch_answers(settled, asked).logits

            found = check_export(opened, contract, real, images, ask)
            more = further_rows(opened, real.pixels, ask(real.pixels), real.split)
        filled = filled.model_copy(update={"checks": (found, *more)})
    write_package(folder, files, filled, contract)
    return filled


def to_onnx(
    network: torch.nn.Module,
    example: torch.Tensor,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    shapes: Any,
) -> bytes:
    """Return a network as ONNX bytes: one file, the same network always the same bytes.

    Parameters
    ----------
    network
        In evaluation mode, with one tensor as its argument.
    example
        An argument; a dimension that is free must not be 1 in it, or the exporter takes it as fixed.
    inputs, outputs
        Names in the graph.
    shapes
        The free dimensions, as ``torch.export``'s ``dynamic_shapes``.

    Raises
    ------
    PackageError
        If the exporter gives no graph.
    """
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    if program is None:
        raise PackageError("the exporter returned no graph")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / GRAPH
        program.save(str(path), external_data=False)
        return _stripped(onnx.load(str(path)))


def _graph(network: torch.nn.Module, images: NDArray[np.uint8]) -> bytes:
    # two images: from a batch of one the exporter would conclude that there is always one
    example = torch.from_numpy(np.resize(images, (2, *images.shape[1:])))
    free = ({0: torch.export.Dim("N", min=1)},)
    return to_onnx(network, example, ("images",), OUTPUTS, free)


def _stripped(model: onnx.ModelProto) -> bytes:
    """Return the graph's bytes without the exporter's notes: they name source files and lines."""
    for field in (model, model.graph):
        field.ClearField("doc_string")
        field.ClearField("metadata_props")
    for entry in (
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
        *model.functions,
    ):
        for name in ("doc_string", "metadata_props"):
            entry.ClearField(name)
    model.graph.ClearField("value_info")
    model.graph.name = "hilum"
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _weights(network: torch.nn.Module) -> bytes:
    # clone: safetensors refuses tensors that share memory
    tensors = {name: value.detach().clone() for name, value in network.state_dict().items()}
    data: bytes = safetensors.torch.save(tensors)
    return data


def _torch_answers(network: torch.nn.Module, images: NDArray[np.uint8]) -> _Answers:
    parts: list[tuple[NDArray[np.float32], ...]] = []
    with torch.no_grad():
        for start in range(0, len(images), KEPT_IMAGES):
            batch = torch.from_numpy(images[start : start + KEPT_IMAGES])
            parts.append(tuple(value.numpy() for value in network(batch)))
    logits, evidence, embedding = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Answers(logits, evidence, embedding)


def _onnx_answers(graph: bytes, images: NDArray[np.uint8]) -> _Answers:
    session = open_session(graph)
    # one by one, as a service asks: the batch dimension is proven to be free, too
    parts = [session.run(OUTPUTS, {"images": image[None]}) for image in images]
    return _Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _compare(expected: _Answers, found: _Answers) -> float:
    difference = _largest(expected.logits, found.logits)
    apart = {
        "logits": difference,
        "evidence's means": _largest(expected.evidence.mean((2, 3)), found.evidence.mean((2, 3))),
    }
    for what, value in apart.items():
        if not value <= TOLERANCE:
            raise PackageError(
                f"ONNX Runtime's {what} differ from torch's by {value:.3g}, allowed {TOLERANCE:g}"
            )
    return difference


def _bias(answers: _Answers, card: Card) -> NDArray[np.float32]:
    """Return the head's bias [K]; raise if the evidence map isn't what the logit is made of."""
    columns = sum(len(output.columns) for output in card.outputs)
    if answers.logits.ndim != 2 or answers.logits.shape[1] != columns:
        shape = list(answers.logits.shape)
        raise PackageError(f"the network returns logits {shape}, the card names {columns} columns")
    rest = answers.logits.astype(np.float64) - answers.evidence.mean((2, 3), dtype=np.float64)
    bias = np.median(rest, axis=0)
    apart = _largest(rest, np.broadcast_to(bias, rest.shape))
    if not apart <= TOLERANCE:
        raise PackageError(
            f"logit minus mean evidence varies by {apart:.3g} between images, allowed {TOLERANCE:g}: "
            "the evidence map is not what the logit is made of"
        )
    return np.asarray(bias, dtype=np.float32)


def _check_images(images: NDArray[np.uint8], card: Card) -> None:
    wanted = (card.size, card.size, card.channels)
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1:] != wanted
        or not len(images)
    ):
        raise PackageError(
            f"verification images are {images.dtype} {list(images.shape)}, "
            f"expected uint8 [n, {wanted[0]}, {wanted[1]}, {wanted[2]}]"
        )


def _largest(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    return float(np.max(np.abs(one - other)))
