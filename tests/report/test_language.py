"""The vocabulary is unambiguous, wholly reachable, and reads back word for word."""

import itertools
import re

import numpy as np
import pytest

from data_schemas.errors import ConfigError, ReportError
from data_schemas.report import Vocabulary
from pipeline.report.evidence import Statement
from pipeline.report.language import (
    check_language,
    choices,
    everything,
    join_words,
    tokens_of,
    words_of,
)
from pipeline.report.readback import check_reads_back
from pipeline.report.write import choose


def test_every_state_has_two_sentences_of_its_own(vocabulary):
    meanings: dict[str, set[tuple[str, str]]] = {}
    counts: dict[tuple[str, str], set[str]] = {}
    for statement, choice in everything(vocabulary):
        key = (statement.subject, statement.state)
        meanings.setdefault(choice.text, set()).add(key)
        counts.setdefault(key, set()).add(choice.text)
    assert all(len(keys) == 1 for keys in meanings.values())
    assert all(len(texts) >= 2 for texts in counts.values())
    states = ("present", "uncertain", "absent", "not_assessed")
    assert set(itertools.product(vocabulary.findings, states)) <= set(counts)


def test_no_sentence_begins_another(vocabulary):
    texts = {choice.text for _, choice in everything(vocabulary)}
    words = {words_of(text) for text in texts}
    beginnings = {w[:n] for w in words for n in range(1, len(w))}
    assert not words & beginnings
    assert not [(a, b) for a, b in itertools.permutations(texts, 2) if b.startswith(a)]


def test_every_sentence_reads_back_as_what_it_stands_for(vocabulary):
    check_reads_back(vocabulary)


@pytest.mark.parametrize(
    "sentence",
    ["Exudates unchanged.", "There are 3 exudates.", "Exudates and haemorrhages.", "Drusen seen."],
)
def test_a_finding_s_sentence_that_says_more_or_else_is_refused(vocabulary, sentence):
    spoiled = _with_present(vocabulary, "exudates", ("Exudates present.", sentence))
    with pytest.raises(ReportError, match=re.escape(f"{sentence!r} doesn't say: exudates present")):
        check_reads_back(spoiled)


def test_an_impression_or_a_notice_that_advises_the_opposite_is_refused(vocabulary):
    refer = dict.fromkeys(vocabulary.styles, ("Positive for {name}; no referral advised.",))
    overall = {**vocabulary.overall, "present_refer": refer}
    with pytest.raises(ReportError, match="doesn't say: overall present_refer"):
        check_reads_back(vocabulary.model_copy(update={"overall": overall}))
    notices = vocabulary.notices.model_copy(update={"insufficient_advice": "Refer never."})
    with pytest.raises(ReportError, match=r"'Refer never\.' doesn't say: refer"):
        check_reads_back(vocabulary.model_copy(update={"notices": notices}))
    reasons = {**vocabulary.notices.reasons, "too dark": "The photograph is too bright."}
    notices = vocabulary.notices.model_copy(update={"reasons": reasons})
    with pytest.raises(ReportError, match="doesn't say: the reason `dark`"):
        check_reads_back(vocabulary.model_copy(update={"notices": notices}))


class Wants:
    """A writer that wants one sentence and says so at every word."""

    def __init__(self, vocabulary, sentence, start):
        self.tokens = tokens_of(vocabulary)
        self.sha256 = ""
        self.number = {word: n for n, word in enumerate(self.tokens)}
        self.path = [self.number[word] for word in sentence.words]
        self.start = start

    def logits(self, numbers):
        answer = np.zeros(len(self.tokens), np.float32)
        answer[self.path[len(numbers) - self.start]] = 1.0
        return answer


def test_every_sentence_can_be_reached(vocabulary):
    for statement, choice in everything(vocabulary):
        if choice.covers > 1 or statement.subject == "overall":
            continue
        assert _reached((statement,), "referable", choice, vocabulary)
    listed = [n for n in vocabulary.findings if vocabulary.findings[n].listed]
    for state in vocabulary.lists:
        told = tuple(Statement(name, state, listed=True) for name in listed)
        lists = [c for c in choices(told, 0, "referable", vocabulary) if c.covers == len(listed)]
        assert len(lists) >= 2
        assert all(_reached(told, "referable", choice, vocabulary) for choice in lists)
    for primary, state in itertools.product(vocabulary.findings, vocabulary.overall):
        told = (Statement("overall", state),)
        for choice in choices(told, 0, primary, vocabulary):
            assert _reached(told, primary, choice, vocabulary)


def _reached(told, primary, choice, vocabulary):
    # the prompt: a start mark, a token per statement, a text mark
    writer = Wants(vocabulary, choice, start=len(told) + 2)
    return choose(told, primary, vocabulary, writer) == [choice]


def test_words_give_the_text_back(vocabulary):
    for _, choice in everything(vocabulary):
        assert join_words(list(choice.words)) == choice.text


def _with_present(vocabulary, name, brief):
    words = vocabulary.findings[name]
    phrases = {**words.phrases, "present": {**words.phrases["present"], "brief": brief}}
    changed = words.model_copy(update={"phrases": phrases})
    return vocabulary.model_copy(update={"findings": {**vocabulary.findings, name: changed}})


@pytest.mark.parametrize(
    ("brief", "fault"),
    [
        (("No exudates.",), "'No exudates.' means two things"),
        (("No exudates",), "'No exudates' begins 'No exudates, "),
        (("Exudates  seen.",), "'Exudates  seen.' has spaces"),
    ],
)
def test_an_ambiguous_vocabulary_is_refused(vocabulary, brief, fault):
    with pytest.raises(ReportError) as caught:
        check_language(_with_present(vocabulary, "exudates", brief))
    assert fault in str(caught.value)


def test_a_state_without_words_is_refused(vocabulary):
    words = vocabulary.findings["exudates"]
    phrases = {state: p for state, p in words.phrases.items() if state != "uncertain"}
    changed = words.model_copy(update={"phrases": phrases})
    spoiled = vocabulary.model_copy(
        update={"findings": {**vocabulary.findings, "exudates": changed}}
    )
    with pytest.raises(ReportError, match="exudates has no sentence for uncertain"):
        check_language(spoiled)


def test_a_missing_eye_or_quality_is_refused(vocabulary):
    spoiled = vocabulary.model_copy(
        update={
            "eye": {"L": vocabulary.eye["L"]},
            "quality": {"sufficient": vocabulary.quality["sufficient"]},
        }
    )
    with pytest.raises(ReportError) as caught:
        check_language(spoiled)
    assert "eye has no sentence for R" in str(caught.value)
    assert "quality has no sentence for not_assessed" in str(caught.value)


def test_a_missing_style_is_a_fault_of_the_file(vocabulary):
    tree = vocabulary.model_dump(mode="json")
    del tree["eye"]["L"]["brief"]
    with pytest.raises(ConfigError, match="every style"):
        Vocabulary.from_tree(tree, where="file")
