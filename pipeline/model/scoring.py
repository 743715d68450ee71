"""From a file's bytes to a Score: read, prepare, run, decide. The one way for batch and service."""

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.card import Card, Output
from data_schemas.files import sha256
from data_schemas.score import EvidenceMap, ModelIdentity, ScopeAnswer, Score, ScoredImage
from pipeline.imaging.instance import Instance, Prepared
from pipeline.imaging.kinds import prepare_any_kind, read_any_kind
from pipeline.imaging.picture import picture
from pipeline.imaging.prepare import came_prepared
from pipeline.model.decision import (
    NOT_ASSESSABLE,
    Decision,
    decide,
    every_point,
    not_assessed,
    out_of_scope,
)
from pipeline.model.graph import Outputs
from pipeline.model.overlay import overlay_png
from pipeline.model.package import Package
from pipeline.model.runtime import Scorer
from pipeline.model.wanted import ALL_EVIDENCE, SCORE_ALONE, Wanted

FULL_COLOUR = 1.0
"""Least evidence, in logits, that the strongest colour of an overlay stands for."""


def score_bytes(
    package: Package,
    runtime: Scorer,
    data: bytes,
    *,
    evidence: bool = False,
    version: str = "",
) -> Score:
    """Score one file.

    Parameters
    ----------
    package, runtime
        An opened package and its loaded graph.
    data
        The bytes of a DICOM object, JPEG, PNG or TIFF.
    evidence
        Whether the answer carries an evidence map for each label, drawn over the picture.
    version
        Of the model in the registry, if it came from there.

    Returns
    -------
    Score
        With verdict ``insufficient_quality`` and neither probabilities nor finding states if the
        photograph can't be judged; with verdict ``out_of_scope`` and no finding states if the image
        is of a kind that the contract doesn't take (then there are no probabilities either), or if
        its embedding is too far from those of the training images.

    Raises
    ------
    ImageError
        If the bytes can't be decoded, or not under the contract's formats and limits.
    """
    return score_instance(
        package, runtime, read_any_kind(data, package.contract), evidence=evidence, version=version
    )


def rehearse(package: Package) -> None:
    """Make up an answer to an image that nobody sent, without a run: the next one is made quicker."""
    card = package.card
    pixels = np.zeros((card.size, card.size, card.channels), np.uint8)
    columns = sum(len(output.columns) for output in card.outputs)
    silent = _Silent(np.zeros(columns, np.float32))
    plain = dataclasses.replace(package, reference=None)
    score_prepared(plain, silent, *came_prepared(pixels)).model_dump_json()


@dataclasses.dataclass(frozen=True, slots=True)
class _Silent:
    """A runtime that answers nothing but zeros."""

    bias: NDArray[np.float32]
    identity: str = "none"

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        logits = np.zeros((len(images), len(self.bias)), np.float32)
        return Outputs(logits, logits[..., None, None], logits)


def score_instance(
    package: Package,
    runtime: Scorer,
    instance: Instance,
    *,
    evidence: bool = False,
    version: str = "",
) -> Score:
    """Score one decoded instance; see :func:`score_bytes`."""
    prepared = prepare_any_kind(instance, package.contract)
    seen = (lambda: picture(instance)) if evidence else None
    wanted = ALL_EVIDENCE if evidence else SCORE_ALONE
    return score_prepared(package, runtime, instance, prepared, wanted, seen=seen, version=version)


def score_prepared(
    package: Package,
    runtime: Scorer,
    instance: Instance,
    prepared: Prepared,
    wanted: Wanted = SCORE_ALONE,
    *,
    seen: Callable[[], NDArray[np.uint8]] | None = None,
    version: str = "",
) -> Score:
    """Score one prepared image; of ``instance`` only its facts are read, not its pixels.

    ``seen`` gives the picture, uint8 [H, W, 3], that evidence maps are drawn over, in full or
    reduced for that (``pipeline.model.overlay.reduced``); ``None``: they aren't drawn.
    """
    if prepared.outside:
        decision = not_assessed(package.card, "out_of_scope")
        score = _score(package, runtime, instance, prepared, decision, version)
        other_kind = ScopeAnswer(inside=False, reasons=(prepared.outside,))
        score = score.model_copy(update={"scope": other_kind})
        return _with_more(score, package.card, wanted)
    if not prepared.quality.sufficient:
        score = _score(package, runtime, instance, prepared, not_assessed(package.card), version)
        return _with_more(score, package.card, wanted)
    outputs = runtime.run(prepared.pixels[None])
    decision = decide(package.card, outputs.logits[0])
    reference = package.reference
    sight = reference and reference.see(outputs.embedding[0], prepared.pixels)
    scope = sight and sight.scope
    if scope and not scope.inside:
        decision = out_of_scope(decision)
    score = _score(package, runtime, instance, prepared, decision, version)
    maps: tuple[EvidenceMap, ...] = ()
    if wanted.arrays or wanted.pictures:
        picture = seen() if seen and wanted.pictures else None
        longest = max(instance.rows, instance.columns)
        maps = _evidence_maps(package.card, runtime, outputs, picture, prepared, longest)
        if not wanted.arrays:
            maps = tuple(one.model_copy(update={"values": ()}) for one in maps)
    logits = tuple(float(value) for value in outputs.logits[0])
    score = score.model_copy(update={"logits": logits, "scope": scope, "evidence": maps})
    if sight and wanted.watch:
        wanted.watch(score, sight)
    return _with_more(score, package.card, wanted, outputs.embedding[0])


def _with_more(
    score: Score, card: Card, wanted: Wanted, embedding: NDArray[np.float32] | None = None
) -> Score:
    more: dict[str, Any] = {}
    if wanted.points:
        judged = score.verdict not in NOT_ASSESSABLE
        more["points"] = every_point(card, (score if judged else not_assessed(card)).findings)
    if wanted.embedding and embedding is not None:
        more["embedding"] = tuple(float(value) for value in embedding)
    return score.model_copy(update=more) if more else score


def explained_class(output: Output, logits: NDArray[np.floating[Any]]) -> tuple[int, int]:
    """Return (class, column of the logits) that the evidence map of ``output`` is about.

    A binary label: its class 1. Classes: the most probable one, whose logit won. Grades learned
    as such: the first step of the scale at which the verdict changes, "this class or a later one".
    """
    if output.link == "cumulative":
        positive = set(output.positive_classes)
        step = next(
            k for k in range(1, len(output.classes)) if (k in positive) != (k - 1 in positive)
        )
        return step, output.columns[step - 1]
    if len(output.columns) == 1:
        return 1, output.columns[0]
    best = int(np.argmax(logits[list(output.columns)]))
    return best, output.columns[best]


def _score(
    package: Package,
    runtime: Scorer,
    instance: Instance,
    prepared: Prepared,
    decision: Decision,
    version: str,
) -> Score:
    card = package.card
    return Score(
        image=ScoredImage(
            source_sha256=instance.source_sha256,
            format=instance.format,
            modality=instance.modality,
            laterality=instance.laterality,
            rows=instance.rows,
            columns=instance.columns,
            prepared_sha256="" if prepared.outside else _digest(prepared),
            warnings=tuple(dict.fromkeys((*instance.warnings, *prepared.warnings))),
        ),
        model=ModelIdentity(
            name=card.name,
            version=version,
            package_sha256=package.sha256,
            contract_sha256=card.contract_sha256,
            runtime=runtime.identity,
        ),
        verdict=decision.verdict,
        primary=card.primary,
        operating_point=decision.point.name,
        threshold=decision.point.high,
        probabilities=decision.probabilities,
        logits=(),
        findings=decision.findings,
        quality=prepared.quality,
    )


def _digest(prepared: Prepared) -> str:
    return sha256(np.ascontiguousarray(prepared.pixels).data.cast("B"))


def _evidence_maps(
    card: Card,
    runtime: Scorer,
    outputs: Outputs,
    seen: NDArray[np.uint8] | None,
    prepared: Prepared,
    longest: int,
) -> tuple[EvidenceMap, ...]:
    logits, grids = outputs.logits[0], outputs.evidence[0]
    maps = []
    for output in card.outputs:
        index, column = explained_class(output, logits)
        values = grids[column]
        drawn = b""
        if seen is not None:
            # a map weaker than one logit everywhere stays pale instead of blown up to full colour
            unit = max(float(np.abs(values).max()), FULL_COLOUR)
            drawn = overlay_png(seen, values, prepared.region, unit=unit, longest=longest)
        maps.append(
            EvidenceMap(
                label=output.label,
                class_index=index,
                or_later=output.link == "cumulative",
                values=tuple(tuple(float(cell) for cell in row) for row in values),
                bias=float(runtime.bias[column]),
                logit=float(logits[column]),
                region=prepared.region,
                overlay_png=base64.b64encode(drawn).decode("ascii"),
            )
        )
    return tuple(maps)
