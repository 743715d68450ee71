"""How well a writer has learned manner: one style, one hand, lists where an author would make them."""

import numpy as np

from data_schemas.report import Vocabulary
from pipeline.report.language import choices, run_length
from pipeline.report.simulate import SimulatedReport, gathers
from pipeline.report.write import NextWord, choose, next_sentence


def manner(
    writer: NextWord, reports: list[SimulatedReport], vocabulary: Vocabulary
) -> dict[str, float]:
    """Return figures between 0 and 1 of a writer on reports that it has not seen.

    Returns
    -------
    dict
        ``one_style``: share of its drafts that keep one style throughout; ``gathers``: share of
        runs of findings that it treats as authors of that style do (one list or single
        sentences); ``next_sentence``: share of the authors' sentences that it foresees, knowing
        the text before; ``ceiling``: the same for one who knows the author.
    """
    one_style = []
    gathered: list[bool] = []
    for report in reports:
        chosen = choose(report.told, report.primary, vocabulary, writer)
        styles = {choice.style for choice in chosen}
        one_style.append(len(styles) == 1)
        at = 0
        for choice in chosen:
            run = run_length(report.told, at)
            if run > 1 and _can_gather(report, at, vocabulary):
                fits = (choice.covers > 1) == gathers(choice.style, run, vocabulary)
                gathered.append(fits)
            at += choice.covers
    foreseen = [hit for report in reports for hit in _foreseen(writer, report, vocabulary)]
    ceiling = [hit for report in reports for hit in report.habitual]
    return {
        "one_style": float(np.mean(one_style)),
        "gathers": float(np.mean(gathered)) if gathered else 1.0,
        "next_sentence": float(np.mean(foreseen)),
        "ceiling": float(np.mean(ceiling)),
    }


def _can_gather(report: SimulatedReport, at: int, vocabulary: Vocabulary) -> bool:
    return any(c.covers > 1 for c in choices(report.told, at, report.primary, vocabulary))


def _foreseen(writer: NextWord, report: SimulatedReport, vocabulary: Vocabulary) -> list[bool]:
    at = 0
    before: list[str] = []
    hits = []
    for sentence in report.sentences:
        legal = choices(report.told, at, report.primary, vocabulary)
        hits.append(next_sentence(report.told, before, legal, writer) == sentence)
        before += sentence.words
        at += sentence.covers
    return hits
