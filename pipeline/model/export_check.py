"""An exported package against the network it came from: on images of the data set, from bytes to verdict."""

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.card import Card, ExportCheck
from data_schemas.contract import Contract
from data_schemas.errors import ImageError, TrainingError
from data_schemas.files import sha256
from data_schemas.score import Score
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.model import decision
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes

NEAR = 1e-4
"""Largest difference of a probability allowed; answers this close to a threshold are counted."""

UNJUDGED = "insufficient_quality"

FILES = 16
"""Images that go through the whole served road as PNG files."""

Floats = NDArray[np.float64]
Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class RealImages:
    """Prepared images of the data set, for the check only: none of them travels in a package."""

    pixels: NDArray[np.uint8]  # [n, S, S, C]
    split: str


def check_export(
    package: Package, contract: Contract, real: RealImages, drawn: NDArray[np.uint8], ask: Ask
) -> ExportCheck:
    """Compare a package's answers with the network's own.

    Parameters
    ----------
    package
        As exported, opened from its files.
    contract
        The data set's: its side of the pixel road.
    real, drawn
        Images of the data set, and drawn ones.
    ask
        The network: images to logits [n, K].

    Raises
    ------
    TrainingError
        If a probability differs by more than 1e-4, a verdict or finding changes at any operating
        point, or a file's bytes become another array or answer.
    """
    runtime = Runtime(package)
    card = package.card
    wanted = ask(real.pixels)
    # one by one, as a service asks
    found = np.concatenate([runtime.run(image[None]).logits for image in real.pixels])
    apart = _largest_probability(card, wanted, found)
    changed, near = _changed(card, wanted, found)
    _require(
        apart <= NEAR and not changed,
        f"the exported graph is not the trained network: on {len(found)} images of the "
        f"{real.split} split its probabilities differ by up to {apart:.3g} (allowed {NEAR:g}), "
        f"{changed} verdicts change",
    )
    count, refused = _from_bytes(package, runtime, contract, _files(real, drawn), ask)
    return ExportCheck(
        precision=runtime.identity,
        split=real.split,
        images=len(found),
        max_logit_difference=float(np.abs(wanted - found).max()),
        max_probability_difference=apart,
        changed_verdicts=changed,
        near_threshold=near,
        from_bytes=count,
        refused_bytes=refused,
    )


def _largest_probability(
    card: Card, wanted: NDArray[np.float32], found: NDArray[np.float32]
) -> float:
    one, other = decision.probabilities(card, wanted), decision.probabilities(card, found)
    return max(float(np.abs(one[label] - other[label]).max()) for label in one)


def _changed(
    card: Card, wanted: NDArray[np.float32], found: NDArray[np.float32]
) -> tuple[int, int]:
    """Return how many images change state at any operating point, and how many are near one."""
    changed, near = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for point in card.operating_points:
        one = decision.positive_probability(card, point.label, wanted)
        other = decision.positive_probability(card, point.label, found)
        for threshold in {point.low, point.high}:
            changed |= (one >= threshold) != (other >= threshold)
            near |= np.abs(other - threshold) <= NEAR
    return int(changed.sum()), int(near.sum())


def _files(real: RealImages, drawn: NDArray[np.uint8]) -> list[bytes]:
    # spread over what was given, which is in an order of its own
    chosen = np.linspace(0, len(real.pixels) - 1, min(FILES, len(real.pixels))).astype(int)
    return [_png(image) for image in (*drawn, *real.pixels[chosen])]


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _from_bytes(
    package: Package, runtime: Runtime, contract: Contract, files: list[bytes], ask: Ask
) -> tuple[int, dict[str, int]]:
    """Compare the served road with the training side's; return files compared, and refusals."""
    count = 0
    refused: Counter[str] = Counter()
    for data in files:
        reason, pixels = _prepared(data, contract)
        served, score = _served(package, runtime, data)
        _require(
            served == reason, f"a file is `{reason}` for training and `{served}` for the service"
        )
        if pixels is None or score is None:
            refused[reason] += 1
            continue
        digest = sha256(np.ascontiguousarray(pixels).data.cast("B"))
        _require(
            digest == score.image.prepared_sha256,
            "the same file becomes another array in the service than in training",
        )
        answer = decision.decide(package.card, ask(pixels[None])[0])
        if score.verdict == "out_of_scope":  # as drawings are; what the network says is compared
            answer = decision.out_of_scope(answer)
        same = answer.verdict == score.verdict and [x.state for x in answer.findings] == [
            x.state for x in score.findings
        ]
        _require(
            same and _near(answer.probabilities, score.probabilities),
            f"a file is {answer.verdict} for the network and {score.verdict} for the service",
        )
        count += 1
    return count, dict(sorted(refused.items()))


def _prepared(data: bytes, contract: Contract) -> tuple[str, NDArray[np.uint8] | None]:
    try:
        found = prepare(read(data, contract), contract)
    except ImageError as error:
        return error.code, None
    return ("", found.pixels) if found.quality.sufficient else (UNJUDGED, None)


def _served(package: Package, runtime: Runtime, data: bytes) -> tuple[str, Score | None]:
    try:
        found = score_bytes(package, runtime, data)
    except ImageError as error:
        return error.code, None
    return (UNJUDGED, None) if found.verdict == UNJUDGED else ("", found)


def _near(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> bool:
    return all(
        abs(value - other[label][name]) <= NEAR
        for label, classes in one.items()
        for name, value in classes.items()
    )


def _require(agreed: bool, what: str) -> None:
    if not agreed:
        raise TrainingError(
            f"{what}. No package was written",
            mend="the weights are in the run's last checkpoint; report this with the plan",
        )
