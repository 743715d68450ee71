"""From evidence to verdict in the run's own numbers: every term of the sum, for every output."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.card import Card, Output
from pipeline.model import decision
from pipeline.model.overlay import overlay_png
from pipeline.model.scoring import FULL_COLOUR, explained_class
from pipeline.train.look.passing import Floats
from pipeline.train.look.pictures import number, smaller_photograph
from pipeline.train.look.subject import Seen

LONGEST_PICTURE = 640
"""px of the picture that evidence is drawn on."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the package answers to one image."""

    evidence: Floats  # [K, h, w]
    bias: Floats  # [K]
    logits: Floats  # [K]


def outputs_tree(card: Card, found: Answered, seen: Seen) -> list[dict[str, Any]]:
    """Return, for each output, its maps, the sum, the calibration and the decision."""
    made = decision.decide(card, found.logits)
    findings = {finding.name: finding for finding in made.findings}
    shown = _shrunk(seen)
    trees = []
    for output in card.outputs:
        point = decision.point_of(card, output.label)
        finding = findings[output.label]
        shares = list(made.probabilities[output.label].values())
        trees.append(
            {
                "label": output.label,
                "truth": seen.truth.get(output.label, ""),
                "classes": list(output.classes),
                "positive_classes": list(output.positive_classes),
                "link": _link(output),
                "temperature": output.temperature,
                "explained": explained_class(output, found.logits)[1],
                "columns": [
                    _column_tree(output, place, column, found, shown)
                    for place, column in enumerate(output.columns)
                ],
                "probabilities": [number(share) for share in shares],
                "positive": number(finding.probability or 0.0),
                "point": None if point is None else point.model_dump(mode="json"),
                "state": finding.state,
            }
        )
    return trees


def _column_tree(
    output: Output,
    place: int,
    column: int,
    found: Answered,
    shown: tuple[NDArray[np.uint8], tuple[int, int, int, int]],
) -> dict[str, Any]:
    values = found.evidence[column]
    shift = output.shift[place] if output.shift else 0.0
    unit = max(float(np.abs(values).max()), FULL_COLOUR)
    return {
        "column": column,
        "name": _column_name(output, place),
        "cells": [[number(cell) for cell in row] for row in values],
        "mean": number(values.mean(dtype=np.float64)),
        "bias": number(found.bias[column]),
        "logit": number(found.logits[column]),
        "shift": shift,
        "scaled": number(float(found.logits[column]) / output.temperature + shift),
        "unit": number(unit),
        "overlay": _overlay(shown, values, unit),
    }


def _overlay(
    shown: tuple[NDArray[np.uint8], tuple[int, int, int, int]], values: Floats, unit: float
) -> str:
    drawn = overlay_png(shown[0], values, shown[1], unit=unit)
    with Image.open(io.BytesIO(drawn)) as picture:
        return smaller_photograph(np.asarray(picture.convert("RGB")), LONGEST_PICTURE)


def _shrunk(seen: Seen) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Return the picture at the size it is drawn at, and the region on it."""
    rows, columns = seen.picture.shape[:2]
    scale = LONGEST_PICTURE / max(rows, columns)
    if scale >= 1:
        return seen.picture, seen.region
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    small = Image.fromarray(seen.picture).resize(size, Image.Resampling.BOX)
    top, left, height, width = (round(value * scale) for value in seen.region)
    return np.asarray(small), (top, left, height, width)


def _link(output: Output) -> str:
    if output.link == "cumulative":
        return "cumulative"
    return "sigmoid" if len(output.columns) == 1 else "softmax"


def _column_name(output: Output, place: int) -> str:
    if output.link == "cumulative":
        return f"{output.classes[place + 1]} or more"
    return output.classes[1] if len(output.columns) == 1 else output.classes[place]
