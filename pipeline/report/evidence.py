"""From a score to the list of statements that a draft must make: each once, in this order."""

from dataclasses import dataclass

from data_schemas.errors import ReportError
from data_schemas.report import OverallState, Vocabulary
from data_schemas.score import FindingScore, Score
from data_schemas.terms import FindingState

STATE_ORDER: tuple[FindingState, ...] = ("present", "uncertain", "absent", "not_assessed")
"""Findings are told in this order of states: what was seen first, what was not looked for last."""

VERDICT_STATES: dict[str, FindingState] = {
    "positive": "present",
    "indeterminate": "uncertain",
    "negative": "absent",
}
"""The verdict is the primary finding's state in other words; a score where they differ is wrong."""

UNCERTAIN_GRADE = "uncertain"


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing to say. ``subject`` is eye, quality, grade, overall or a finding's name."""

    subject: str
    state: str
    probability: float | None = None
    low: float | None = None
    high: float | None = None
    listed: bool = False


def statements(score: Score, vocabulary: Vocabulary) -> tuple[Statement, ...]:
    """Return what a draft of a judged image must say.

    Raises
    ------
    ReportError
        If the score contradicts itself, or holds a finding that the vocabulary has no words for:
        then no draft can be both complete and true.
    """
    _check(score, vocabulary)
    told = _findings(score, vocabulary)
    primary = next(s for s in told if s.subject == score.primary)
    eye = score.image.laterality
    said = [Statement("eye", eye)] if eye in ("L", "R") else []
    # without measured features nobody looked at the quality, and "sufficient" would be a claim
    said.append(Statement("quality", "sufficient" if score.quality.features else "not_assessed"))
    said += told
    said += _grade(score, vocabulary)
    said.append(_overall(primary, told, vocabulary))
    return tuple(said)


def _check(score: Score, vocabulary: Vocabulary) -> None:
    faults = []
    for finding in score.findings:
        if finding.name not in vocabulary.findings:
            faults.append(f"`{finding.name}` is not in the vocabulary {vocabulary.name}")
        elif finding.state not in ("not_assessed", state_of(finding)):
            faults.append(
                f"`{finding.name}` is called {finding.state}, but the probability "
                f"{finding.probability} with the limits {finding.low:.4g} and {finding.high:.4g} "
                f"is {state_of(finding)}"
            )
    names = [finding.name for finding in score.findings]
    faults += [f"`{name}` stands twice" for name in sorted(set(names)) if names.count(name) > 1]
    primary = next((f for f in score.findings if f.name == score.primary), None)
    if primary is None:
        faults.append(f"the primary finding `{score.primary}` is not among the findings")
    elif VERDICT_STATES.get(score.verdict) != primary.state:
        faults.append(f"the verdict is {score.verdict}, but `{score.primary}` is {primary.state}")
    if not score.quality.sufficient:
        faults.append(f"the verdict is {score.verdict}, but the quality is insufficient")
    if faults:
        raise ReportError(
            "no draft can be written from this score: " + "; ".join(faults),
            mend="score the image again, or choose a vocabulary that has words for its findings",
        )


def state_of(finding: FindingScore) -> FindingState:
    """Return the state that the probability and the two limits give."""
    if finding.probability is None:
        return "not_assessed"
    if finding.probability >= finding.high:
        return "present"
    return "absent" if finding.probability < finding.low else "uncertain"


def _findings(score: Score, vocabulary: Vocabulary) -> list[Statement]:
    scored = {finding.name: finding for finding in score.findings}
    told = []
    for name, words in vocabulary.findings.items():
        finding = scored.get(name)
        if finding is not None:
            limits = (finding.probability, finding.low, finding.high)
            told.append(Statement(name, finding.state, *limits, listed=words.listed))
        elif words.always:
            told.append(Statement(name, "not_assessed", listed=words.listed))

    def place(statement: Statement) -> tuple[bool, int, int]:
        state = next(n for n, name in enumerate(STATE_ORDER) if name == statement.state)
        is_primary = statement.subject == score.primary
        return (not is_primary, state, vocabulary.findings[statement.subject].order)

    return sorted(told, key=place)


def _grade(score: Score, vocabulary: Vocabulary) -> list[Statement]:
    words = vocabulary.grade
    if words is None or words.label not in score.probabilities:
        return []
    probabilities = list(score.probabilities[words.label].values())
    if len(probabilities) != len(words.classes):
        raise ReportError(
            f"`{words.label}` has {len(probabilities)} classes, the vocabulary "
            f"{vocabulary.name} knows {len(words.classes)}",
            mend="choose a vocabulary with as many grades as the model",
        )
    grade = max(range(len(probabilities)), key=probabilities.__getitem__)
    sure = probabilities[grade] >= words.sure
    for finding in score.findings:
        if finding.name in words.at_least:
            least = words.at_least[finding.name]
        elif finding.name == words.label and finding.probability is not None:
            least = lowest_positive(probabilities, finding.probability)
        else:
            continue
        if finding.state in ("present", "absent"):
            sure = sure and (grade >= least) == (finding.state == "present")
    state = str(grade) if sure else UNCERTAIN_GRADE
    return [Statement("grade", state, probabilities[grade])]


def lowest_positive(probabilities: list[float], positive: float) -> int:
    """Return the grade from which on the classes add up to ``positive``; past the last if none do.

    A score says how probable a reportable grade is, not which grades those are; the sum tells.
    """
    grades = range(1, len(probabilities))
    sums = {grade: sum(probabilities[grade:]) for grade in grades}
    # 1e-6: the sums were rounded on their way
    return next((g for g in grades if abs(sums[g] - positive) < 1e-6), len(probabilities))


def _overall(primary: Statement, told: list[Statement], vocabulary: Vocabulary) -> Statement:
    state: OverallState
    if primary.state == "absent":
        others = any(s.state in ("present", "uncertain") for s in told)
        state = "absent_but_others" if others else "absent"
    elif primary.state == "present":
        # a microaneurysm, say, is no reason to refer by itself (Wilkinson 2003: mild)
        state = "present_refer" if vocabulary.findings[primary.subject].refers else "present"
    else:
        state = "uncertain"
    return Statement("overall", state, primary.probability, primary.low, primary.high)
