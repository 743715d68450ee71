"""What a network says about a split, and how right it is: logits, losses, tune metrics."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_schemas.card import Output
from pipeline.evaluate import statistics
from pipeline.model import decision
from pipeline.train.labels import Head, Ints
from pipeline.train.world import World

Floats = NDArray[np.float64]


def logits_of(
    network: nn.Module, images: Iterable[Tensor], world: World, precision: str = "fp32"
) -> Floats:
    """Return the logits [N, K] of batches of images, in order."""
    parts = []
    with torch.no_grad():
        for batch in images:
            with world.autocast(precision):
                logits = network(batch)[0]
            parts.append(logits.double().cpu().numpy())
    return np.concatenate(parts)


def shares(output: Output, logits: Floats) -> Floats:
    """Return probabilities [N, classes] of one output from all logits [N, K]."""
    return decision.calibrated(output, logits)


def positive(output: Output, logits: Floats) -> Floats:
    """Return the probability [N] of the output's positive classes."""
    found: Floats = shares(output, logits)[:, list(output.positive_classes)].sum(axis=1)
    return np.minimum(found, 1.0)  # a sum of softmax terms may exceed 1 by a rounding error


def is_positive(output: Output, truth: Ints) -> Ints:
    """Return 1 where a known label [N] is one of the output's positive classes, else 0."""
    return np.isin(truth, output.positive_classes).astype(np.int64)


def tune_metrics(head: Head, logits: Floats, targets: Ints) -> dict[str, float]:
    """Return ``tune/...`` metrics over the labels that are known; ``nan`` where a class is missing.

    ``tune/auc`` is the mean over labels; of classes, it is the mean over those present of one
    against the rest (MedMNIST's official score), and ``tune/auc_positive`` is of the verdict. Of
    grades, ``tune/kappa`` is the agreement with quadratic weights.
    """
    metrics: dict[str, float] = {}
    aucs, losses, right, briers = [], [], [], []
    for place, output in enumerate(head.outputs):
        known = targets[:, place] >= 0
        truth, own_logits = targets[known, place], logits[known]
        if not len(truth):
            metrics[f"tune/auc_{output.label}"] = math.nan
            continue
        found = shares(output, own_logits)
        answered = decision.classes_of(output, own_logits)
        if head.kind == "binary":
            auc = statistics.auc(truth, own_logits[:, output.columns[0]])
        else:
            auc = _mean_of_defined(np.asarray(statistics.one_vs_rest_auc(truth, found)))
            metrics["tune/auc_positive"] = statistics.auc(
                is_positive(output, truth), positive(output, own_logits)
            )
        if head.graded:
            table = statistics.confusion(truth, answered, len(output.classes))
            metrics["tune/kappa"] = statistics.quadratic_kappa(table)
        if len(head.outputs) > 1:
            metrics[f"tune/auc_{output.label}"] = auc
        aucs.append(auc)
        own = np.clip(found[np.arange(len(truth)), truth], 1e-12, 1.0)
        losses.append(float(-np.log(own).mean()))
        right.append(float((answered == truth).mean()))
        hot = np.eye(found.shape[1])[truth]
        briers.append(float(((found - hot) ** 2).sum(axis=1).mean()))
    return {
        "tune/auc": _mean_of_defined(np.array(aucs)),
        "tune/loss": float(np.mean(losses)),
        "tune/accuracy": float(np.mean(right)),
        "tune/brier": float(np.mean(briers)),
        **metrics,
    }


def calibration_metrics(truth: Ints, probability: Floats, tail: str) -> dict[str, float]:
    """Return ``calibration/...`` metrics of a verdict; ``tail`` sets several labels apart."""
    return {
        f"calibration/auc{tail}": statistics.auc(truth, probability),
        f"calibration/brier{tail}": statistics.brier(truth, probability),
        f"calibration/ece{tail}": statistics.expected_calibration_error(truth, probability),
    }


def _mean_of_defined(values: Floats) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else math.nan
