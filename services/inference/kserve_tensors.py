"""Which tensors the model takes and gives to clients of the Open Inference Protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card
from data_schemas.document import Part
from data_schemas.score import Score
from pipeline.model.wanted import Wanted
from services.inference.problems import Refusal
from services.inference.tensors import InferRequest, Tensor, files_of, infer_request, pixels_of

if TYPE_CHECKING:
    from services.inference.decoders import Decoded

PREFIX = "probabilities."
"""Before a label's name, for the tensor of its classes' probabilities."""

Maker = Callable[[Sequence[Score]], NDArray[Any] | Sequence[bytes]]


class TensorMetadata(Part):
    """A tensor that the model takes or gives; -1: any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class V2Model(Part):
    """The model as the protocol describes one. It takes one of its inputs, not both."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What a request asks: images, what to keep of them, and which tensors, each in binary or not."""

    id: str
    images: "Sequence[bytes | Decoded]"
    wanted: Wanted
    outputs: dict[str, bool]


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor that the model gives."""

    datatype: str
    shape: tuple[int, ...]
    make: Maker


def v2_model(card: Card, version: str) -> V2Model:
    """Return the description of the model."""
    image = (-1, card.size, card.size, card.channels)
    return V2Model(
        name=card.name,
        versions=(version,) if version else (),
        platform="hilum_onnx",
        inputs=(
            TensorMetadata(name="files", datatype="BYTES", shape=(-1,)),
            TensorMetadata(name="images", datatype="UINT8", shape=image),
        ),
        outputs=tuple(
            TensorMetadata(name=name, datatype=given.datatype, shape=given.shape)
            for name, given in _given(card).items()
        ),
    )


def order_of(tree: dict[str, Any], binary: memoryview, card: Card, most: int) -> Order:
    """Return what a request's JSON and the bytes behind it ask for.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST``, ``EMPTY_BODY``.
    """
    asked = infer_request(tree)
    tensor = asked.inputs[0]
    images: Sequence[bytes | Decoded]
    if tensor.name == "files":
        images = files_of(tensor, binary, most)
    else:
        from services.inference.decoders import as_decoded

        shape = (card.size, card.size, card.channels)
        images = [as_decoded(pixels) for pixels in pixels_of(tensor, binary, shape)]
    outputs = _outputs(asked, card)
    wanted = Wanted(
        arrays="evidence" in outputs or "region" in outputs, embedding="embedding" in outputs
    )
    return Order(asked.id, images, wanted, outputs)


def answer_tensors(card: Card, scores: Sequence[Score], names: Sequence[str]) -> list[Tensor]:
    """Return the tensors of these names about the scores."""
    given = _given(card)
    return [Tensor(name, given[name].datatype, given[name].make(scores)) for name in names]


def _outputs(asked: InferRequest, card: Card) -> dict[str, bool]:
    known = _given(card)
    usual = asked.parameters.get("binary_data_output") is True
    if not asked.outputs:
        return dict.fromkeys(known, usual)
    for place, output in enumerate(asked.outputs):
        if output.name not in known:
            raise Refusal(
                "INVALID_REQUEST",
                f"outputs.{place}.name: the model gives {', '.join(known)}.",
            )
    return {
        output.name: output.parameters.get("binary_data", usual) is True for output in asked.outputs
    }


def _given(card: Card) -> dict[str, _Given]:
    """Return every tensor that the model gives, by name."""
    columns = sum(len(output.columns) for output in card.outputs)
    labels = len(card.outputs)
    given = {
        "verdict": _Given("BYTES", (-1,), lambda scores: [s.verdict.encode() for s in scores]),
        "probability": _Given("FP64", (-1,), _probabilities),
    }
    for output in card.outputs:
        shape = (-1, len(output.classes))
        make = partial(_classes, label=output.label, classes=output.classes)
        given[PREFIX + output.label] = _Given("FP64", shape, make)
    return given | {
        "logits": _Given("FP32", (-1, columns), lambda found: _filled([s.logits for s in found])),
        "embedding": _Given("FP32", (-1, -1), lambda found: _filled([s.embedding for s in found])),
        "evidence": _Given("FP32", (-1, labels, -1, -1), partial(_evidence, labels=labels)),
        "region": _Given("INT64", (-1, 4), _regions),
        "score_id": _Given("BYTES", (-1,), lambda scores: [s.score_id.encode() for s in scores]),
        "score": _Given("BYTES", (-1,), lambda found: [_document(s) for s in found]),
    }


def primary_probability(score: Score) -> float | None:
    """Return the probability of the finding that the verdict is about; ``None``: not judged."""
    return next(found.probability for found in score.findings if found.name == score.primary)


def _probabilities(scores: Sequence[Score]) -> NDArray[np.float64]:
    # None becomes NaN
    return np.array([primary_probability(score) for score in scores], np.float64)


def _filled(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return rows as an array; NaN where the model said nothing."""
    width = max(map(len, rows))
    array = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array


def _classes(scores: Sequence[Score], label: str, classes: tuple[str, ...]) -> NDArray[np.float64]:
    rows = [list(score.probabilities.get(label, {}).values()) for score in scores]
    return _filled([*rows, [0.0] * len(classes)])[:-1]


def _evidence(scores: Sequence[Score], labels: int) -> NDArray[np.float64]:
    grids = [np.array([one.values for one in s.evidence]) for s in scores]
    shape = next((grid.shape for grid in grids if grid.size), (labels, 0, 0))
    empty = np.full(shape, np.nan)
    return np.stack([grid if grid.size else empty for grid in grids])


def _regions(scores: Sequence[Score]) -> NDArray[np.int64]:
    rows = [s.evidence[0].region if s.evidence else (0, 0, 0, 0) for s in scores]
    return np.array(rows, np.int64)


def _document(score: Score) -> bytes:
    # what has a tensor of its own isn't repeated in the text
    plain = score.model_copy(update={"evidence": (), "embedding": ()})
    return plain.model_dump_json().encode()
