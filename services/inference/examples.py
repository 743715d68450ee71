"""Examples of the interface's description: answers in the shape that this package's answers have."""

from typing import Any

from data_schemas.patient import PatientScore, SideScore
from data_schemas.score import FindingScore, ModelIdentity, Score, ScoredImage
from pipeline.model.decision import DEFAULT
from pipeline.model.package import Package
from services.inference.answers import BatchAnswer, ImageAnswer
from services.inference.problems import Problem, Refusal, problem_of

EXAMPLE_ID = "00000000-0000-4000-8000-000000000000"
_DIGEST = "0" * 64

FILE_EXAMPLE = "(the bytes of the file)"
IMAGE_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAZ0lEQVR42nWPwQ3DMAzEmFoDaIQbIftPwxE8Qh+xG3+q"
    "hwARRwm6AAgACBQQkjVLQZIViVjkBTxKtoLBkXQnpHs2czL63krPBj7H2fADR/0Bvn00e5+olgSJgILFHp8ItfwNvM5v"
    "Rb4EtycgiMABjAAAAABJRU5ErkJggg=="
)
"""A whole PNG, grey, 16 x 16."""

FIGURES_EXAMPLE = """\
# HELP hilum_ready 1 when the model is loaded and checked.
# TYPE hilum_ready gauge
hilum_ready 1.0
"""


def score_example(package: Package) -> dict[str, Any]:
    """Return a score."""
    return _score(package).model_dump(mode="json")


def patient_example(package: Package) -> dict[str, Any]:
    """Return the answer about a patient with two images."""
    score = _score(package)
    side = SideScore(laterality="R", images=(0,), verdict=score.verdict, findings=score.findings)
    patient = PatientScore(
        aggregate=package.card.aggregate,
        verdict=score.verdict,
        primary=score.primary,
        operating_point=score.operating_point,
        threshold=score.threshold,
        findings=score.findings,
        sides=(side, side.model_copy(update={"laterality": "L", "images": (1,)})),
        images=(score, score),
    )
    return patient.model_dump(mode="json")


def batch_example(package: Package) -> dict[str, Any]:
    """Return the answer about two files, one of which is none."""
    answers = (ImageAnswer(score=_score(package)), ImageAnswer(problem=_problem("NOT_AN_IMAGE")))
    return BatchAnswer(answers=answers).model_dump(mode="json")


def predictions_example(package: Package) -> dict[str, Any]:
    """Return the answer to an MLflow client."""
    return {"predictions": [{"probability": 0.25, **score_example(package)}]}


def problem_example(code: str) -> dict[str, Any]:
    """Return a problem body."""
    return _problem(code).model_dump(mode="json", exclude_none=True)


def _problem(code: str) -> Problem:
    return problem_of(Refusal(code, "One or two sentences about this request."), EXAMPLE_ID)


def _score(package: Package) -> Score:
    card = package.card
    point = next(p for p in card.operating_points if (p.label, p.name) == (card.primary, DEFAULT))
    even = {
        output.label: {name: round(1 / len(output.classes), 4) for name in output.classes}
        for output in card.outputs
    }
    return Score(
        image=ScoredImage(
            source_sha256=_DIGEST, format="jpeg", rows=1024, columns=1536, prepared_sha256=_DIGEST
        ),
        model=ModelIdentity(
            name=card.name,
            package_sha256=package.sha256,
            contract_sha256=card.contract_sha256,
            runtime="onnxruntime 1.32.0 fp32",
        ),
        verdict="negative",
        primary=card.primary,
        operating_point=point.name,
        threshold=point.high,
        probabilities=even,
        logits=tuple(0.0 for output in card.outputs for _ in output.columns),
        findings=tuple(
            FindingScore(
                name=p.label, probability=0.5 * p.low, low=p.low, high=p.high, state="absent"
            )
            for p in card.operating_points
            if p.name == DEFAULT
        ),
    )
