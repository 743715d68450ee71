"""An exported package against the network it came from: on images of the data set, from bytes to verdict."""

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.card import ExportCheck
from data_schemas.contract import Contract
from data_schemas.errors import HilumError, ImageError, TrainingError
from data_schemas.files import sha256
from data_schemas.score import Score
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.model import decision
from pipeline.model.agreement import NEAR, Agreement, answers, compare
from pipeline.model.cores import available_cores
from pipeline.model.kinds import BASE, KINDS, missing
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes
from pipeline.model.sums import INT8_GRAPH

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
    wanted = ask(real.pixels)
    found = compare(package.card, wanted, answers(runtime, real.pixels))
    _require(
        found.probability <= NEAR and not found.changed,
        f"the exported graph is not the trained network: on {found.images} images of the "
        f"{real.split} split its probabilities differ by up to {found.probability:.3g} "
        f"(allowed {NEAR:g}), {found.changed} verdicts change",
    )
    count, refused = _from_bytes(package, runtime, contract, _files(real, drawn), ask)
    row = row_of(runtime, found, real.split)
    return row.model_copy(update={"from_bytes": count, "refused_bytes": refused})


def row_of(runtime: Runtime, found: Agreement, split: str, against: str = "torch") -> ExportCheck:
    """Return the card's row about one runtime."""
    return ExportCheck(
        precision=runtime.identity,
        against=against,
        split=split,
        images=found.images,
        max_logit_difference=found.logit,
        max_probability_difference=found.probability,
        changed_verdicts=found.changed,
        near_threshold=found.near,
        max_evidence_difference=found.evidence,
    )


def further_rows(
    package: Package,
    images: NDArray[np.uint8],
    wanted: NDArray[np.float32],
    split: str,
    against: str = "torch",
) -> tuple[ExportCheck, ...]:
    """Return a row for every kind but the base that this machine has; nothing is refused here.

    ``wanted`` [N, K] are the reference's logits about ``images``.
    """
    rows = []
    for kind in KINDS:
        has_graph = kind.precision != "int8" or INT8_GRAPH in package.digests
        if kind == BASE or missing(kind) or not has_graph:
            continue
        try:
            runtime = Runtime(package, kind=kind, streams=available_cores())
        except HilumError:  # a processor without that precision, a CUDA without a device
            continue
        found = compare(package.card, wanted, answers(runtime, images))
        rows.append(row_of(runtime, found, split, against))
    return tuple(rows)


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
