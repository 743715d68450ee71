"""Simulated scores and the reports that four careful authors would write about them.

What the writer learns from them is manner, never meaning. Each author keeps one style through the
whole report, mostly reaches for the same turn of phrase, and gathers neighbouring findings of one
state in one sentence: the brief authors from two on, the others from three on.
"""

from dataclasses import dataclass

import numpy as np

from data_schemas.report import Vocabulary
from data_schemas.score import FindingScore, ModelIdentity, QualityAnswer, Score, ScoredImage
from data_schemas.terms import FindingState, Laterality, Verdict
from pipeline.report.evidence import Statement, statements
from pipeline.report.language import Choice, choices

HABIT = 0.9
"""How often an author takes the turn of phrase that he or she always takes."""

LOW, HIGH = 0.3, 0.6
VERDICTS: dict[str, Verdict] = {
    "present": "positive",
    "uncertain": "indeterminate",
    "absent": "negative",
}
MODEL = ModelIdentity(
    name="simulated", package_sha256="0" * 64, contract_sha256="0" * 64, runtime="none"
)


@dataclass(frozen=True, slots=True)
class SimulatedReport:
    """What had to be said, and how one author said it."""

    told: tuple[Statement, ...]
    primary: str
    sentences: tuple[Choice, ...]
    habitual: tuple[bool, ...]
    """Per sentence: whether it is the one that this author always takes."""


def draw_report(vocabulary: Vocabulary, rng: np.random.Generator) -> SimulatedReport:
    """Draw a score of a judged image and the report of one author about it."""
    score = draw_score(vocabulary, rng)
    told = statements(score, vocabulary)
    style = str(rng.choice(vocabulary.styles))
    hand = int(rng.integers(2))
    sentences: list[Choice] = []
    habitual = []
    at = 0
    while at < len(told):
        legal = choices(told, at, score.primary, vocabulary)
        longest = max(choice.covers for choice in legal)
        covers = longest if gathers(style, longest, vocabulary) else 1
        mine = [c for c in legal if c.style == style and c.covers == covers]
        usual = mine[hand % len(mine)]
        any_of_mine = mine[int(rng.integers(len(mine)))]
        sentences.append(usual if rng.random() < HABIT else any_of_mine)
        habitual.append(sentences[-1] == usual)
        at += covers
    return SimulatedReport(told, score.primary, tuple(sentences), tuple(habitual))


def gathers(style: str, run: int, vocabulary: Vocabulary) -> bool:
    """Return whether an author of ``style`` puts a run of findings into one sentence."""
    return run >= (3 if style == vocabulary.fixed_style else 2)


def draw_score(vocabulary: Vocabulary, rng: np.random.Generator) -> Score:
    """Draw a score of a judged image: any findings, any states, any side; no picture behind it."""
    names = _findings(vocabulary, rng)
    primary = names[0]
    health = rng.choice(["healthy", "ill", "any"], p=[0.4, 0.4, 0.2])
    prior = {"healthy": (0.05, 0.05, 0.9), "ill": (0.6, 0.15, 0.25), "any": (1 / 3,) * 3}[health]
    grades = _grades(vocabulary, rng) if "dr_grade" in names or rng.random() < 0.1 else []
    findings = []
    for name in names:
        drawn: FindingState = rng.choice(["present", "uncertain", "absent"], p=prior)
        unassessed = name != primary and rng.random() < 0.08
        findings.append(_finding(name, "not_assessed" if unassessed else drawn, rng))
    label = vocabulary.grade.label if vocabulary.grade is not None else ""
    side: Laterality = rng.choice(["L", "R", "U", "B"], p=[0.46, 0.46, 0.06, 0.02])
    return Score(
        image=ScoredImage(
            source_sha256=rng.bytes(32).hex(),
            format="jpeg",
            laterality=side,
            rows=0,
            columns=0,
            prepared_sha256=rng.bytes(32).hex(),
        ),
        model=MODEL,
        verdict=VERDICTS[findings[0].state],
        primary=primary,
        operating_point="default",
        threshold=HIGH,
        probabilities={label: {str(n): p for n, p in enumerate(grades)}} if grades else {},
        logits=(),
        findings=tuple(findings),
        quality=QualityAnswer(features={"sharpness": 1.0} if rng.random() < 0.7 else {}),
    )


def _findings(vocabulary: Vocabulary, rng: np.random.Generator) -> list[str]:
    every = sorted(vocabulary.findings, key=lambda name: vocabulary.findings[name].order)
    kind = rng.choice(["all", "first", "one", "some"], p=[0.55, 0.15, 0.1, 0.2])
    if kind == "one":
        return [str(rng.choice(every))]
    if kind == "some":
        size = int(rng.integers(1, len(every) + 1))
        return [str(name) for name in rng.permutation(every)[:size]]
    heads = [name for name in every if not vocabulary.findings[name].listed] or every[:1]
    head = str(rng.choice(heads))
    rest = [name for name in every if vocabulary.findings[name].listed and name != head]
    return [head, *rest] if kind == "all" else [head]


def _finding(name: str, state: FindingState, rng: np.random.Generator) -> FindingScore:
    spans = {"present": (HIGH, 1.0), "uncertain": (LOW, HIGH), "absent": (0.0, LOW)}
    low, high = spans.get(state, (0.0, 1.0))
    probability = float(rng.uniform(low, high))
    return FindingScore(name=name, probability=probability, low=LOW, high=HIGH, state=state)


def _grades(vocabulary: Vocabulary, rng: np.random.Generator) -> list[float]:
    if vocabulary.grade is None:
        return []
    size = len(vocabulary.grade.classes)
    return [float(p) for p in rng.dirichlet(np.full(size, 0.25))]
