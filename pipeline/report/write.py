"""Writes drafts: the transformer chooses among the sentences of each required statement, nothing else.

The list of statements comes from the score. For each of them, in order, the writer walks a small
tree of legal sentences, word by word; every word outside the tree is out of reach. So a draft is
complete, supported and of the right polarity for any weights, random ones too. Then the draft is
read back by :mod:`pipeline.report.read`, and if anything differs, or the writer fails in any way,
fixed sentences about the same statements take its place.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_schemas import settings
from data_schemas.errors import ReportError
from data_schemas.files import sha256_of_file
from data_schemas.report import Draft, Evidence, Sentence, Vocabulary, WriterCard
from data_schemas.score import Score
from data_schemas.version import our_version
from pipeline.report.check import check
from pipeline.report.evidence import VERDICT_STATES, Statement, statements
from pipeline.report.language import (
    START,
    TEXT,
    Choice,
    check_language,
    choices,
    prompt_token,
    tokens_of,
)

Section = Literal["eye", "quality", "findings", "impression", "notice"]


class NextWord(Protocol):
    """What writing needs of a writer."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Token number -> word."""

    @property
    def sha256(self) -> str:
        """Digest of the writer; it stands in every draft that the writer took part in."""

    def logits(self, numbers: list[int]) -> NDArray[np.float32]:
        """Return one logit per token for the word after ``numbers``."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A trained writer under ONNX Runtime: no torch."""

    card: WriterCard
    vocabulary: Vocabulary
    tokens: tuple[str, ...]
    sha256: str
    session: object

    def logits(self, numbers: list[int]) -> NDArray[np.float32]:
        """Return one logit per token, float32 [v], for the word after ``numbers``."""
        if len(numbers) > self.card.positions:
            raise ReportError(f"{len(numbers)} tokens, the writer reads {self.card.positions}")
        words_bt = np.asarray([numbers], dtype=np.int64)
        logits_btv = self.session.run(["logits"], {"words": words_bt})[0]  # type: ignore[attr-defined]
        last: NDArray[np.float32] = logits_btv[0, -1]
        return last


def open_writer(folder: Path) -> Writer:
    """Open a folder that ``hilum train-report`` wrote, after checking its digests.

    Raises
    ------
    ReportError
        If a file is missing or is not the one that ``writer.json`` names.
    """
    from pipeline.model.session import open_session

    card = WriterCard.read_json(folder / "writer.json")
    graph = folder / "writer.onnx"
    if not graph.is_file() or sha256_of_file(graph) != card.onnx_sha256:
        raise ReportError(
            "is missing or is not the file that writer.json names",
            where=graph,
            mend="train the writer again: hilum train-report --out WRITER",
        )
    layer = settings.from_file(folder / "vocabulary.yaml")
    vocabulary = settings.resolve(Vocabulary, [layer])
    if vocabulary.digest() != card.vocabulary_sha256 or tokens_of(vocabulary) != card.tokens:
        raise ReportError(
            "is not the vocabulary that the writer was trained on",
            where=folder / "vocabulary.yaml",
            mend="train the writer again: hilum train-report --out WRITER",
        )
    check_language(vocabulary)
    session = open_session(graph)  # one thread: the same draft on every machine
    return Writer(card, vocabulary, card.tokens, card.digest(), session)


def draft(score: Score, vocabulary: Vocabulary, writer: NextWord | None = None) -> Draft:
    """Write an unsigned report about one scored image.

    Parameters
    ----------
    score
        The answer about the image.
    vocabulary
        What may be said, as :func:`pipeline.report.language.check_language` accepts it; with a
        writer, the one that it was trained on.
    writer
        Chooses among paraphrases; ``None``: the fixed sentences.

    Returns
    -------
    Draft
        Read back and found equal to the score. ``source`` says who chose the sentences; if the
        writer failed or its text did not read back, ``fallback_reason`` says why.

    Raises
    ------
    ReportError
        If the score contradicts itself or the vocabulary lacks words for it, or if even the fixed
        sentences don't read back: then there is no draft.
    """
    if score.verdict not in VERDICT_STATES:
        return _checked(_notice(score, vocabulary), score, vocabulary, "fixed", None, "")
    told = statements(score, vocabulary)
    reason = ""
    if writer is not None:
        try:
            chosen = choose(told, score.primary, vocabulary, writer)
            sentences = _sentences(told, chosen, score)
            return _checked(sentences, score, vocabulary, "writer", writer, "")
        except Exception as error:  # noqa: BLE001 - whatever a writer does, a draft comes out
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    fixed = [choices((s,), 0, score.primary, vocabulary) for s in told]
    plain = [next(c for c in legal if c.style == vocabulary.fixed_style) for legal in fixed]
    sentences = _sentences(told, plain, score)
    return _checked(sentences, score, vocabulary, "fixed", writer, reason)


def choose(
    told: tuple[Statement, ...], primary: str, vocabulary: Vocabulary, writer: NextWord
) -> list[Choice]:
    """Let the writer choose a sentence for every statement (or run of them), greedily.

    At each word only the continuations of legal sentences can be chosen; where there is one, the
    writer isn't asked. Equal logits are decided by the lower token number, so the same score and
    writer give the same words.

    Raises
    ------
    ReportError
        If the writer doesn't know a word of the language, or answers with the wrong shape.
    """
    chosen: list[Choice] = []
    before: list[str] = []
    at = 0
    while at < len(told):
        legal = choices(told, at, primary, vocabulary)
        sentence = next_sentence(told, before, legal, writer)
        before += sentence.words
        chosen.append(sentence)
        at += sentence.covers
    return chosen


def next_sentence(
    told: tuple[Statement, ...], before: list[str], legal: list[Choice], writer: NextWord
) -> Choice:
    """Return the one of ``legal`` that the writer prefers after the words ``before``.

    Raises
    ------
    ReportError
        As :func:`choose`.
    """
    number = {word: n for n, word in enumerate(writer.tokens)}
    prompt = [START, *(prompt_token(s) for s in told), TEXT]
    try:
        numbers = [number[word] for word in [*prompt, *before]]
        paths = [(choice, [number[word] for word in choice.words]) for choice in legal]
    except KeyError as error:
        raise ReportError(f"the writer doesn't know the token {error}") from error
    return _walk(paths, numbers, writer)


def _walk(legal: list[tuple[Choice, list[int]]], before: list[int], writer: NextWord) -> Choice:
    words: list[int] = []
    # no sentence begins another (check_language), so one is left before any has run out of words
    while len(legal) > 1:
        following = sorted({path[len(words)] for _, path in legal})
        word = following[0]
        if len(following) > 1:
            logits = np.asarray(writer.logits([*before, *words]))
            if logits.shape != (len(writer.tokens),):
                raise ReportError(f"the writer answered with shape {logits.shape}")
            if not np.isfinite(logits).all():
                raise ReportError("the writer answered with numbers that are not finite")
            word = following[int(np.argmax(logits[following]))]  # argmax: the first of equals
        legal = [(choice, path) for choice, path in legal if path[len(words)] == word]
        words.append(word)
    return legal[0][0]


def _sentences(
    told: tuple[Statement, ...], chosen: list[Choice], score: Score
) -> tuple[Sentence, ...]:
    written = []
    at = 0
    for choice in chosen:
        covered = told[at : at + choice.covers]
        evidence = tuple(Evidence(**_limits(s), subject=s.subject, state=s.state) for s in covered)
        section = _section(covered[0])
        written.append(_sentence(choice.text, section, evidence, score, choice.style))
        at += choice.covers
    return tuple(written)


def _limits(statement: Statement) -> dict[str, float | None]:
    return {
        "probability": statement.probability,
        "low": statement.low,
        "high": statement.high,
    }


def _section(statement: Statement) -> Section:
    if statement.subject in ("eye", "quality"):
        return "eye" if statement.subject == "eye" else "quality"
    return "impression" if statement.subject == "overall" else "findings"


def _notice(score: Score, vocabulary: Vocabulary) -> tuple[Sentence, ...]:
    words = vocabulary.notices
    if score.verdict == "out_of_scope":
        texts = [words.out_of_scope, words.out_of_scope_advice]
    else:
        # a reason carries measured numbers after a colon, which a draft doesn't repeat
        reasons = {reason.partition(":")[0] for reason in score.quality.reasons}
        why = [text for reason, text in words.reasons.items() if reason in reasons]
        why += [words.further] if reasons - set(words.reasons) else []
        why = why or [words.reasons["other"]]
        texts = [words.insufficient, *why, words.insufficient_advice]
    evidence = (Evidence(subject="quality", state=score.verdict),)
    return tuple(_sentence(text, "notice", evidence, score) for text in texts)


def _sentence(
    text: str, section: Section, evidence: tuple[Evidence, ...], score: Score, style: str = ""
) -> Sentence:
    return Sentence(
        text=text,
        section=section,
        style=style,
        evidence=evidence,
        model_name=score.model.name,
        model_version=score.model.version,
        package_sha256=score.model.package_sha256,
    )


def _checked(
    sentences: tuple[Sentence, ...],
    score: Score,
    vocabulary: Vocabulary,
    source: Literal["writer", "fixed"],
    writer: NextWord | None,
    fallback_reason: str,
) -> Draft:
    text = " ".join(sentence.text for sentence in sentences)
    scored = {finding.name for finding in score.findings}
    unscored = tuple(n for n, w in vocabulary.findings.items() if w.always and n not in scored)
    problems = check(text, score, unscored)
    if problems:
        raise ReportError(
            "the draft doesn't read back as the score: " + "; ".join(map(str, problems)),
            mend="report this with the score; the text was withheld",
        )
    return Draft(
        verdict=score.verdict,
        laterality=score.image.laterality,
        text=text,
        sentences=sentences,
        source=source,
        fallback_reason=fallback_reason,
        image_sha256=score.image.source_sha256,
        score_sha256=score.digest(),
        model=score.model,
        vocabulary_name=vocabulary.name,
        vocabulary_sha256=vocabulary.digest(),
        writer_sha256="" if writer is None else writer.sha256,
        hilum_version=our_version(),
    )
