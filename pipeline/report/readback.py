"""Reads every sentence that a vocabulary can say back, each by itself, through the independent reader."""

from collections.abc import Iterator

from data_schemas.errors import ReportError
from data_schemas.report import Notices, OverallState, Vocabulary
from pipeline.report.check import FURTHER, NONE_GIVEN, REASONS
from pipeline.report.evidence import UNCERTAIN_GRADE, Statement
from pipeline.report.language import Choice, everything
from pipeline.report.read import Reading, read

OVERALL: dict[OverallState, tuple[str, frozenset[str]]] = {
    "present": ("present", frozenset({"review"})),
    "present_refer": ("present", frozenset({"refer"})),
    "uncertain": ("uncertain", frozenset({"review"})),
    "absent": ("absent", frozenset()),
    "absent_but_others": ("absent", frozenset({"review"})),
}
"""What the impression claims, and what it advises."""


def check_reads_back(vocabulary: Vocabulary) -> None:
    """Refuse a vocabulary with a sentence that the reader takes for something else.

    Raises
    ------
    ReportError
        With every such sentence.
    """
    faults = [
        f"{choice.text!r} doesn't say: {statement.subject} {statement.state}{_why(choice.text)}"
        for statement, choice in everything(vocabulary)
        if not _says(statement, choice)
    ]
    faults += [
        f"{text!r} doesn't say: {what}{_why(text)}" for what, text in _notices(vocabulary.notices)
    ]
    if faults:
        raise ReportError(
            f"the vocabulary {vocabulary.name} has sentences that don't read back:\n"
            + "\n".join(faults),
            mend="write them otherwise, or give pipeline/report/read.py words for what is new",
        )


def _why(text: str) -> str:
    reading = read(text)
    odd = (*reading.unknown, *reading.numbers, *reading.priors)
    return f" (no draft may hold: {', '.join(odd)})" if odd else ""


def _says(statement: Statement, choice: Choice) -> bool:
    reading = read(choice.text)
    subject, state = statement.subject, statement.state
    states = [mention.state for mention in reading.findings]
    overall = [mention.state for mention in reading.overall]
    claims = (states, reading.grades, reading.eyes, reading.quality, overall)
    beside = bool(reading.advice) or reading.points_to_others
    if subject == "eye":
        right, alone = reading.eyes == (state,), 2
    elif subject == "quality":
        right, alone = reading.quality == (state,), 3
    elif subject == "grade":
        named = "uncertain" if state == UNCERTAIN_GRADE else state
        right, alone = reading.grades == (named,), 1
    elif subject == "overall":
        expected, advice = OVERALL[state]  # type: ignore[index]
        right, alone = overall == [expected] and reading.advice == advice, 4
        beside = reading.points_to_others != (state == "absent_but_others")
    else:
        right, alone = states == [state] * choice.covers, 0
        right = right and subject in {mention.finding for mention in reading.findings}
    others = any(claim for place, claim in enumerate(claims) if place != alone)
    return right and not others and not beside and not _odd(reading) and not _unfit(reading)


def _notices(words: Notices) -> Iterator[tuple[str, str]]:
    """Yield every notice that reads otherwise, with what it should say."""
    named = {reason: REASONS.get(reason, FURTHER) for reason in words.reasons}
    sentences = [
        (text, (named | {"other": NONE_GIVEN})[key]) for key, text in words.reasons.items()
    ]
    for text, expected in [*sentences, (words.further, FURTHER)]:
        reading = read(text)
        if reading.reasons != (expected,) or reading.quality or _odd(reading):
            yield f"the reason `{expected}`", text
    for text, quality, scope in (
        (words.insufficient, ("insufficient",), False),
        (words.out_of_scope, (), True),
    ):
        reading = read(text)
        if (reading.quality, reading.out_of_scope) != (quality, scope) or _odd(reading):
            yield "quality insufficient" if quality else "outside the scope", text
    for text in (words.insufficient_advice, words.out_of_scope_advice):
        if "refer" not in read(text).advice or _odd(read(text)):
            yield "refer", text


def _odd(reading: Reading) -> bool:
    # what no sentence of a draft may hold
    said = (reading.numbers, reading.priors, reading.unknown, reading.unread, reading.stray_sides)
    return any(said)


def _unfit(reading: Reading) -> bool:
    return bool(reading.reasons) or reading.out_of_scope
