"""What may be said next: the sentences of each statement, their words, and the tokens of the writer."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from data_schemas.errors import ReportError
from data_schemas.report import OverallState, Phrases, Vocabulary
from data_schemas.terms import FindingState
from pipeline.report.evidence import UNCERTAIN_GRADE, Statement

START, TEXT, END = "<start>", "<text>", "<end>"


@dataclass(frozen=True, slots=True)
class Choice:
    """One legal next sentence. ``covers`` says how many statements it makes."""

    text: str
    style: str
    covers: int

    @property
    def words(self) -> tuple[str, ...]:
        """Return the sentence as words; a mark of punctuation is a word."""
        return words_of(self.text)


def words_of(text: str) -> tuple[str, ...]:
    """Return the words and marks of ``text``, in order."""
    return tuple(re.findall(r"[\w'-]+|[^\w\s]", text))


def phrases_of(statement: Statement, primary: str, vocabulary: Vocabulary) -> Phrases:
    """Return the sentences, by style, that make one statement and no other."""
    if statement.subject == "eye":
        return vocabulary.eye[statement.state]  # type: ignore[index]
    if statement.subject == "quality":
        return vocabulary.quality[statement.state]  # type: ignore[index]
    if statement.subject == "grade" and vocabulary.grade is not None:
        if statement.state == UNCERTAIN_GRADE:
            return vocabulary.grade.uncertain
        return vocabulary.grade.classes[int(statement.state)]
    if statement.subject == "overall":
        name = vocabulary.findings[primary].name
        phrases = vocabulary.overall[statement.state]  # type: ignore[index]
        return _filled(phrases, {"{name}": name})
    return vocabulary.findings[statement.subject].phrases[statement.state]  # type: ignore[index]


def choices(
    told: tuple[Statement, ...], at: int, primary: str, vocabulary: Vocabulary
) -> list[Choice]:
    """Return every sentence that may come next: about statement ``at``, or its whole run as a list.

    Each makes exactly the next one or more required statements, so whatever is chosen, nothing is
    left out and nothing is added.
    """
    legal = _as_choices(phrases_of(told[at], primary, vocabulary), 1)
    run = run_length(told, at)
    if run > 1 and told[at].state in vocabulary.lists:
        names = [vocabulary.findings[s.subject].name for s in told[at : at + run]]
        phrases = vocabulary.lists[told[at].state]  # type: ignore[index]
        legal += _as_choices(_filled(phrases, _joined(names)), run)
    return legal


def run_length(told: tuple[Statement, ...], at: int) -> int:
    """Return how many statements from ``at`` on are listed findings of one state."""
    run = itertools.takewhile(lambda s: s.listed and s.state == told[at].state, told[at:])
    return sum(1 for _ in run)


def join_words(words: list[str]) -> str:
    """Return words as text: spaces between words, none before a mark of punctuation."""
    return re.sub(r" (?=[^\w\s])", "", " ".join(words))


def prompt_token(statement: Statement) -> str:
    """Return the token that tells the writer one statement before it writes."""
    return f"<{statement.subject}={statement.state}>"


def tokens_of(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the writer's tokens: three marks, every statement there can be, every word, sorted."""
    prompts: set[str] = set()
    words: set[str] = set()
    for statement, choice in everything(vocabulary):
        prompts.add(prompt_token(statement))
        words.update(choice.words)
    return (START, TEXT, END, *sorted(prompts), *sorted(words))


def everything(vocabulary: Vocabulary) -> Iterator[tuple[Statement, Choice]]:
    """Yield every sentence of the language with the (first) statement that it makes."""
    findings = vocabulary.findings
    single = [Statement("eye", side) for side in vocabulary.eye]
    single += [Statement("quality", state) for state in vocabulary.quality]
    single += [Statement(name, state) for name in findings for state in findings[name].phrases]
    if vocabulary.grade is not None:
        single += [Statement("grade", str(n)) for n in range(len(vocabulary.grade.classes))]
        single.append(Statement("grade", UNCERTAIN_GRADE))
    for statement in single:
        for choice in choices((statement,), 0, "", vocabulary):
            yield statement, choice
    for primary, answer in itertools.product(findings, vocabulary.overall):
        statement = Statement("overall", answer)
        for choice in choices((statement,), 0, primary, vocabulary):
            yield statement, choice
    listed = sorted((n for n in findings if findings[n].listed), key=lambda n: findings[n].order)
    for state, size in itertools.product(vocabulary.lists, range(2, len(listed) + 1)):
        for names in itertools.combinations(listed, size):
            told = tuple(Statement(name, state, listed=True) for name in names)
            for choice in choices(told, 0, "", vocabulary):
                if choice.covers > 1:
                    yield told[0], choice


def check_language(vocabulary: Vocabulary) -> None:
    """Refuse a vocabulary in which a sentence could be mistaken for another.

    Raises
    ------
    ReportError
        With every fault: fewer than two sentences for a state, one sentence for two meanings, a
        sentence that begins another, one that doesn't survive being cut into words.
    """
    faults = []
    meaning: dict[str, tuple[str, ...]] = {}
    sentences: dict[tuple[str, str], set[str]] = {}
    for statement, choice in everything(vocabulary):
        key = (statement.subject, statement.state)
        if meaning.setdefault(choice.text, (*key, str(choice.covers))) != (
            *key,
            str(choice.covers),
        ):
            faults.append(f"{choice.text!r} means two things")
        if join_words(list(choice.words)) != choice.text:
            faults.append(f"{choice.text!r} has spaces that its words don't give back")
        if choice.covers == 1:
            sentences.setdefault(key, set()).add(choice.text)
    faults += _beginnings(list(meaning))
    faults += [
        f"{key} has fewer than two sentences" for key in sentences if len(sentences[key]) < 2
    ]
    faults += _gaps(vocabulary)
    if faults:
        raise ReportError(
            f"the vocabulary {vocabulary.name} is ambiguous:\n" + "\n".join(faults),
            mend="give every state at least two sentences of its own",
        )


def _beginnings(texts: list[str]) -> list[str]:
    in_order = sorted(words_of(text) for text in texts)
    return [
        f"{join_words(list(short))!r} begins {join_words(list(long))!r}"
        for short, long in itertools.pairwise(in_order)
        if long[: len(short)] == short
    ]


def _gaps(vocabulary: Vocabulary) -> list[str]:
    states = set(get_args(FindingState))
    names = [words.name for words in vocabulary.findings.values()]
    faults = [f"two findings are called {name!r}" for name in set(names) if names.count(name) > 1]
    for name, words in vocabulary.findings.items():
        faults += [f"{name} has no sentence for {s}" for s in sorted(states - set(words.phrases))]
    for group, needed in (
        ("eye", {"L", "R"} - set(vocabulary.eye)),
        ("quality", {"sufficient", "not_assessed"} - set(vocabulary.quality)),
        ("overall", set(get_args(OverallState)) - set(vocabulary.overall)),
    ):
        faults += [f"{group} has no sentence for {state}" for state in sorted(needed)]
    return faults


def _as_choices(phrases: Phrases, covers: int) -> list[Choice]:
    return [Choice(text, style, covers) for style, texts in phrases.items() for text in texts]


def _filled(phrases: Phrases, values: dict[str, str]) -> Phrases:
    filled = {}
    for style, texts in phrases.items():
        ready = list(texts)
        for key, value in values.items():
            ready = [text.replace(key, value) for text in ready]
        filled[style] = tuple(ready)
    return filled


def _joined(names: list[str]) -> dict[str, str]:
    head, last = ", ".join(names[:-1]), names[-1]
    both = f"{head} and {last}"
    return {"{and}": both, "{And}": both[0].upper() + both[1:], "{or}": f"{head} or {last}"}
