"""What a reviewer reads first: five questions about a run, answered in five lines, and what is suspicious."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_schemas.card import Card, Evaluation, Interval
from data_schemas.dataset import DatasetInfo
from pipeline.evaluate.answers import LabelAnswers, SplitAnswers
from pipeline.ingest.store import Dataset

QUESTIONS = ("How good", "How sure", "On whom", "On which data", "What went wrong")
ECE_LIMIT = 0.05
NOT_GIVEN = "every image counts as a patient of its own: if patients were not given, one may stand in two splits"
FEWEST = 50
"""Images of a class below which a flag is raised: the exact interval of 45/50 is still 18 points wide."""
LINE = 120
"""Characters of a line, with its question, that MLflow's page shows unbroken at 1440 px."""


@dataclass(frozen=True, slots=True)
class Review:
    """The five answers, one line each, and every reason for doubt in a sentence of its own."""

    good: str
    sure: str
    whom: str
    data: str
    wrong: str
    flags: tuple[str, ...] = ()

    def answers(self) -> tuple[tuple[str, str], ...]:
        """Return (question, answer) in the order of reading."""
        texts = (self.good, self.sure, self.whom, self.data, self.wrong)
        return tuple(zip(QUESTIONS, texts, strict=True))


def note(review: Review, page: str) -> str:
    """Return the run's note, which MLflow 3.17 shows whole at the top of the run's page.

    Its page folds a description away at 100 px: five lines of running text don't fit, five lines of
    its smallest heading do (95 px). Everything else stands in the artifact behind the link ``page``.
    """
    lines = [
        f"<b>{question}</b> {html.escape(_cut(text, LINE - len(question) - room))}"
        for (question, text), room in zip(review.answers(), (0, 0, 0, 0, 9), strict=True)
    ]
    link = f' <a href="{html.escape(page)}">Details</a>' if page else ""
    return f"<h5>{'<br>'.join(lines)}{link}</h5>"


def judged(
    answers: SplitAnswers, evaluation: Evaluation, dataset: Dataset, card: Card, leaks: str
) -> Review:
    """Return the review of a run that was measured on its test split.

    ``leaks`` is the leak doctor's verdict in a word, as the run's tags hold it.
    """
    name, found = answers.primary, evaluation.statistics
    label = answers.of_primary()
    positives = int(label.positive.sum())
    negatives = label.positive.size - positives
    each_its_own = dataset.info.patients == dataset.info.images
    flags = tuple(doubts(answers, evaluation, card, leaks))
    flags += (NOT_GIVEN,) if each_its_own else ()
    images = count(evaluation.images, "unseen image")
    who = f"{count(evaluation.patients, 'unseen patient')} ({count(evaluation.images, 'image')}"
    who = f"{images} (each counted as a patient" if each_its_own else who
    ece = found.get(f"ece/{name}", Interval(value=None))
    return Review(
        good=f"{_area(found.get(f'auc/{name}'))}{_at_threshold(label, found)}",
        sure=f"95 % intervals in brackets; {positives} positive, {negatives} negative images; "
        f"calibration error (ECE) {with_limits(ece)}",
        whom=f"{who}, "
        f"{_share(positives, label.positive.size)} positive); "
        f"{_origin(answers, dataset)}; {refused(dataset.info)}",
        data=of_data(dataset.info, leaks),
        wrong=_mistakes(answers, flags),
        flags=flags,
    )


def doubts(answers: SplitAnswers, evaluation: Evaluation, card: Card, leaks: str) -> list[str]:
    """Return what should make a reviewer hesitate, the gravest first."""
    name, found = answers.primary, evaluation.statistics
    label = answers.of_primary()
    flags = []
    area = found.get(f"auc/{name}")
    if area is None or area.value is None:
        flags.append("AUC is undefined: the split lacks a class")
    elif area.low is None:
        flags.append(f"AUC {area.value:.3f} has no interval: {area.method}")
    elif area.low <= 0.5:
        flags.append(f"AUC's interval reaches down to {area.low:.3f}; chance is not excluded")
    positives = int(label.positive.sum())
    for count, what in ((positives, "positive"), (label.positive.size - positives, "negative")):
        if count < FEWEST:
            flags.append(f"only {count} {what} images; intervals are wide")
    flags += _calibration_doubts(found, name)
    if leaks != "none":
        flags.append(f"leaks between the splits: {leaks}; see leaks.json")
    copies = found.get(f"auc_without_copies/{name}")
    if copies is not None:
        flags.append(
            f"copies of images in other splits, without them {_area(copies)}; see leaks.json"
        )
    if label.point is not None and label.point.note:
        flags.append(f"threshold: {label.point.note}")
    flags += _drift(answers, card)
    return flags


def of_data(info: DatasetInfo, leaks: str) -> str:
    """Return the answer to `on which data`: name, digest, splits, the leak doctor's verdict."""
    splits = ", ".join(f"{split} {count:,}" for split, count in info.splits.items() if count)
    published = " (published)" if info.published_test else ""
    return f"{info.name[:30]} {info.content_sha256[:8]}, leaks: {leaks}; {splits} images{published}"


def with_limits(found: Interval, digits: int = 3) -> str:
    """Return ``0.833 (0.786–0.871)``, or what is known of it."""
    if found.value is None:
        return "undefined"
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})"


def _calibration_doubts(found: dict[str, Interval], name: str) -> list[str]:
    ece = found.get(f"ece/{name}")
    if ece is None or ece.value is None or ece.value <= ECE_LIMIT:
        return []
    chance = found.get(f"ece_perfect/{name}", Interval(value=None)).value
    of_which = "" if chance is None else f" (chance alone gives {chance:.3f})"
    return [
        f"calibration error {ece.value:.3f} is above {ECE_LIMIT}{of_which}; don't read scores as chances"
    ]


def _drift(answers: SplitAnswers, card: Card) -> list[str]:
    """Say that the share of positives is far from that of the images the threshold was chosen on."""
    label = answers.of_primary()
    point = next((one for one in card.operating_points if one.label == label.label), None)
    if point is None or not point.images or not label.positive.size:
        return []
    here, there = float(label.positive.mean()), point.positives / point.images
    spread = np.sqrt(max(there * (1 - there), 1e-9) * (1 / point.images + 1 / label.positive.size))
    if abs(here - there) <= 3 * spread:
        return []
    return [
        f"{here:.0%} positive here, {there:.0%} where the threshold was chosen; it may not carry over"
    ]


def _area(found: Interval | None) -> str:
    return "AUC undefined" if found is None else f"AUC {with_limits(found)}"


def _at_threshold(label: LabelAnswers, found: dict[str, Interval]) -> str:
    parts = []
    for what in ("sensitivity", "specificity"):
        one = found.get(f"{what}/{label.label}")
        if one is None or label.point is None:
            return ", no operating point"
        parts.append(f"{what} {_percent(one)}")
    return f", {', '.join(parts)} at p ≥ {label.point.high:.3f}" if label.point else ""


def _percent(found: Interval) -> str:
    """Return ``88 % (84–92; 200/226)``."""
    if found.value is None:
        return "undefined"
    limits = ""
    if found.low is not None and found.high is not None:
        limits = f"{100 * found.low:.0f}–{100 * found.high:.0f}; "
    return f"{100 * found.value:.0f} % ({limits}{found.numerator}/{found.denominator})"


def _mistakes(answers: SplitAnswers, flags: Sequence[str]) -> str:
    label = answers.of_primary()
    parts = []
    if label.point is not None:
        called = label.probability >= label.point.high
        between = ~called & (label.probability >= label.point.low)
        missed = int(((label.positive == 1) & ~called & ~between).sum())
        alarms = int(((label.positive == 0) & called).sum())
        parts.append(f"{missed} positives missed, {count(alarms, 'false alarm')}")
        if between.any():
            parts.append(f"{int(between.sum())} undecided")
    if not flags:
        return "; ".join([*parts, "nothing suspicious."])
    more = f", {count(len(flags) - 1, 'more doubt')}" if len(flags) > 1 else ""
    return "; ".join([*parts, f"{flags[0].partition(';')[0].partition(' (')[0]}{more}."])


def _origin(answers: SplitAnswers, dataset: Dataset) -> str:
    """Return how many sites and devices the split's images come from, as far as the data say."""
    parts, unknown = [], []
    for column in ("site", "device"):
        values = dataset.manifest[column].to_pylist()
        known = {values[row] for row in answers.indices} - {"", None}
        if known:
            parts.append(count(len(known), column))
        else:
            unknown.append(column)
    if unknown:
        parts.append(f"{' and '.join(unknown)} unknown")
    return ", ".join(parts)


def refused(info: DatasetInfo) -> str:
    """Return how many files ingestion refused."""
    return f"{sum(info.refused.values()):,} of {info.files_read:,} files refused"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def count(number: int, what: str) -> str:
    """Return ``1 image``, ``1,080 images``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip(" ,;") + "…"
