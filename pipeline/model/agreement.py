"""How far two sets of answers are apart, and whether that allows a precision: one rule for every place."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card
from data_schemas.terms import Precision
from pipeline.model import decision
from pipeline.model.cores import available_cores
from pipeline.model.package import Package, verification
from pipeline.model.runtime import Runtime

NEAR = 1e-4
"""Largest difference of a probability allowed in fp32; answers this close to a threshold are counted."""

MOST = 0.01
"""Largest difference of a probability allowed in a reduced precision."""

LOGIT = 1e-4
"""Largest difference of a logit allowed in fp32 on the verification images."""

EVIDENCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.05, "int8": 1e-3}
"""Largest |mean of the evidence + bias - logit| allowed. bf16 rounds each cell of a map to 8 bits."""

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a runtime says about N images, asked one by one, as a service is."""

    logits: Logits  # [N, K]
    evidence: float  # largest |mean of the evidence + bias - logit|


@dataclass(frozen=True, slots=True)
class Agreement:
    """N images answered twice."""

    images: int
    logit: float  # largest difference
    probability: float  # largest difference, calibrated, of any label and class
    changed: int  # images that change state at an operating point
    near: int  # images within 1e-4 of a threshold
    evidence: float = 0.0  # largest |mean of the evidence + bias - logit|


def answers(runtime: Runtime, images: NDArray[np.uint8], at_once: int = 0) -> Answers:
    """Ask a runtime about images, uint8 [N, S, S, C], one by one, from ``at_once`` threads; 0: all cores."""
    with ThreadPoolExecutor(at_once or available_cores()) as callers:
        found = list(callers.map(lambda image: runtime.run(image[None]), images))
    logits = np.concatenate([one.logits for one in found])
    means = np.concatenate([one.evidence.mean((2, 3), dtype=np.float64) for one in found])
    return Answers(logits, float(np.abs(means + runtime.bias - logits).max(initial=0.0)))


def compare(card: Card, wanted: Logits, found: Answers) -> Agreement:
    """Compare answers with the logits [N, K] that they should be."""
    one, other = decision.probabilities(card, wanted), decision.probabilities(card, found.logits)
    changed, near = np.zeros(len(wanted), bool), np.zeros(len(wanted), bool)
    for point in card.operating_points:
        before = decision.positive_probability(card, point.label, wanted)
        after = decision.positive_probability(card, point.label, found.logits)
        for threshold in {point.low, point.high}:
            changed |= (before >= threshold) != (after >= threshold)
            near |= np.abs(after - threshold) <= NEAR
    return Agreement(
        images=len(wanted),
        logit=float(np.abs(wanted - found.logits).max()),
        probability=max(float(np.abs(one[label] - other[label]).max()) for label in one),
        changed=int(changed.sum()),
        near=int(near.sum()),
        evidence=found.evidence,
    )


def on_verification(package: Package, runtime: Runtime, at_once: int = 0) -> Agreement:
    """Compare a runtime with what the network answered at export about the package's own images."""
    stored = verification(package)
    return compare(package.card, stored.logits, answers(runtime, stored.images, at_once))


def objection(precision: Precision, found: Agreement) -> str:
    """Return why answers that far apart don't allow a precision, in words; empty if they do."""
    most = NEAR if precision == "fp32" else MOST
    faults = []
    if found.changed:
        faults.append(f"{found.changed} of {found.images} verdicts change")
    if not found.probability <= most:
        faults.append(f"a probability differs by {found.probability:.2g}, {most:g} is allowed")
    if not found.evidence <= EVIDENCE[precision]:
        faults.append(
            f"an evidence map misses its logit by {found.evidence:.2g}, "
            f"{EVIDENCE[precision]:g} is allowed"
        )
    return ", ".join(faults)
