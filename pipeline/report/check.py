"""Holds a draft's text against the score it was written from, through the independent reader only."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from data_schemas.score import Score
from pipeline.report.read import Reading, read

Kind = Literal[
    "missing",
    "repeated",
    "unsupported",
    "polarity",
    "laterality",
    "grade",
    "overall",
    "advice",
    "quality",
    "prior",
    "number",
    "unread",
]

REASONS = {
    "not sharp": "blur",
    "out of focus": "blur",
    "too dark": "dark",
    "too bright": "bright",
    "overexposed": "bright",
    "field not visible": "field",
    "detail is lost in blocks": "blocks",
    "smeared in one direction": "motion",
    "little contrast": "contrast",
    "part of the field is in shade": "shade",
    "not the colour of a retina": "colour",
}
"""What the quality check says before its colon -> what the reader calls it."""
FURTHER, NONE_GIVEN = "further", "other"
VERDICTS = {"positive": "present", "negative": "absent", "indeterminate": "uncertain"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that the text says and the score doesn't, or the other way round."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        """Return ``kind: what``."""
        return f"{self.kind}: {self.what}"


def check(text: str, score: Score, not_assessed: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    """Return every difference between what ``text`` claims and what ``score`` says.

    Parameters
    ----------
    text
        A draft's sentences, without banner and headings.
    score
        The score that it was written from.
    not_assessed
        Findings outside the score which the text must say were not assessed.
    """
    reading = read(text)
    problems = _always(reading)
    if score.verdict in VERDICTS:
        problems += _findings(reading, score, not_assessed)
        problems += _eye(reading, score)
        problems += _grade(reading, score)
        problems += _overall(reading, score)
    else:
        problems += _notice(reading, score)
    return tuple(problems)


def _always(reading: Reading) -> list[Problem]:
    problems = [Problem("number", f"the number {number}") for number in reading.numbers]
    problems += [Problem("prior", f"`{word}` speaks of another time") for word in reading.priors]
    problems += [Problem("unread", f"the word `{word}`") for word in reading.unknown]
    problems += [Problem("unread", f"the sentence {text!r}") for text in reading.unread]
    return problems


def _findings(reading: Reading, score: Score, not_assessed: tuple[str, ...]) -> list[Problem]:
    expected: dict[str, str] = dict.fromkeys(not_assessed, "not_assessed")
    expected |= {finding.name: finding.state for finding in score.findings}
    told = Counter(mention.finding for mention in reading.findings)
    problems = [Problem("missing", name) for name in expected if not told[name]]
    problems += [Problem("repeated", name) for name, count in told.items() if count > 1]
    for mention in reading.findings:
        state = expected.get(mention.finding)
        if state is None:
            problems.append(Problem("unsupported", f"{mention.finding} {mention.state}"))
        elif state != mention.state:
            what = f"{mention.finding} is {state} in the score, {mention.state} in the text"
            problems.append(Problem("polarity", what))
    return problems


def _eye(reading: Reading, score: Score) -> list[Problem]:
    side = score.image.laterality
    expected = (side,) if side in ("L", "R") else ()
    problems = [
        Problem("laterality", f"`{s}` outside the eye's own line") for s in reading.stray_sides
    ]
    if reading.eyes != expected:
        problems.append(Problem("laterality", f"the score says {side}, the text {reading.eyes}"))
    # without measured features nobody looked at the quality
    quality = "sufficient" if score.quality.features else "not_assessed"
    if reading.quality != (quality,):
        problems.append(Problem("quality", f"the text says {reading.quality}"))
    if reading.reasons or reading.out_of_scope:
        problems.append(Problem("quality", "the text calls a judged image unfit"))
    return problems


def _grade(reading: Reading, score: Score) -> list[Problem]:
    probabilities = score.probabilities.get("dr_grade", {})
    if not probabilities or len(probabilities) == 2:  # yes and no are no grades
        return [Problem("grade", f"grade {g} without a grading") for g in reading.grades]
    if len(reading.grades) != 1:
        return [Problem("grade", f"{len(reading.grades)} statements of the grade instead of one")]
    stated = reading.grades[0]
    if stated == "uncertain":
        return []
    values = list(probabilities.values())
    likeliest = str(values.index(max(values)))
    if stated != likeliest:
        return [Problem("grade", f"grade {stated} in the text, {likeliest} in the score")]
    # what stands for "reportable" are the highest grades, whose probabilities make up the finding's
    for finding in score.findings:
        if finding.name == "dr_grade" and finding.state in ("present", "absent"):
            above = sum(values[int(stated) :])
            inside = finding.probability is not None and above <= finding.probability + 1e-6
            if inside != (finding.state == "present"):
                return [Problem("grade", f"grade {stated} beside `dr_grade` {finding.state}")]
    # referable diabetic retinopathy is grade 2 or more (moderate, Wilkinson 2003)
    referable = {f.state for f in score.findings if f.name == "referable"} & {"present", "absent"}
    if referable and ("present" in referable) != (int(stated) >= 2):
        return [Problem("grade", f"grade {stated} beside `referable` {referable.pop()}")]
    return []


def _overall(reading: Reading, score: Score) -> list[Problem]:
    expected = VERDICTS[score.verdict]
    problems = []
    if [(m.finding, m.state) for m in reading.overall] != [(score.primary, expected)]:
        said = [f"{m.finding} {m.state}" for m in reading.overall]
        problems.append(Problem("overall", f"{score.primary} is {expected}, the text says {said}"))
    others = any(f.state in ("present", "uncertain") for f in score.findings)
    needs_others = expected == "absent" and others
    if needs_others != reading.points_to_others:
        problems.append(
            Problem("overall", "other findings: pointed to without need, or not at all")
        )
    allowed = set() if expected == "absent" and not others else {"review"}
    if expected == "present" and score.primary == "referable":
        allowed = {"refer"}
    problems += [Problem("advice", f"`{kind}` doesn't follow") for kind in reading.advice - allowed]
    if allowed and not reading.advice:
        problems.append(Problem("advice", "is missing"))
    return problems


def _notice(reading: Reading, score: Score) -> list[Problem]:
    claims = [*reading.findings, *reading.overall, *reading.grades, *reading.eyes]
    problems = [Problem("unsupported", f"{claim} about an image not judged") for claim in claims]
    problems += [Problem("laterality", side) for side in reading.stray_sides]
    insufficient = score.verdict == "insufficient_quality"
    if reading.quality != (("insufficient",) if insufficient else ()):
        problems.append(Problem("quality", f"the text says {reading.quality}"))
    problems += _reasons(reading, score) if insufficient else _no_reasons(reading)
    if reading.out_of_scope == insufficient:
        problems.append(Problem("unsupported" if reading.out_of_scope else "missing", "the scope"))
    if "refer" not in reading.advice:
        problems.append(Problem("advice", "is missing"))
    return problems


def _reasons(reading: Reading, score: Score) -> list[Problem]:
    if not reading.reasons:
        return [Problem("missing", "the reason")]
    expected = {REASONS.get(one.partition(":")[0], FURTHER) for one in score.quality.reasons}
    expected = expected or {NONE_GIVEN}
    # a vocabulary may lack words for a reason: then it says that there is a further one
    said = set(reading.reasons) - {FURTHER}
    problems = [Problem("unsupported", f"the reason `{one}`") for one in sorted(said - expected)]
    missing = sorted(expected - said)
    if bool(missing) != (FURTHER in reading.reasons):
        problems.append(Problem("missing" if missing else "unsupported", f"reasons: {missing}"))
    return problems


def _no_reasons(reading: Reading) -> list[Problem]:
    return [Problem("unsupported", f"the reason `{one}`") for one in reading.reasons]
