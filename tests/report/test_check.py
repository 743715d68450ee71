"""Every way of falsifying a draft is caught; the reader's rules hold on sentences that are not ours."""

import re

import pytest

from pipeline.imaging.quality import _WORDS
from pipeline.report.check import REASONS, check
from pipeline.report.evidence import Statement
from pipeline.report.language import choices
from pipeline.report.read import read
from pipeline.report.write import draft

OPPOSITE = {"present": "absent", "absent": "present", "uncertain": "present"}


@pytest.fixture(scope="module")
def drafts(vocabulary, demo_like_scores):
    return [(score, draft(score, vocabulary)) for score in demo_like_scores[:80]]


def _replaced(written, place, text):
    sentences = [s.text for s in written.sentences]
    sentences[place : place + 1] = text if isinstance(text, list) else [text]
    return " ".join(sentences)


def _body(written):
    return [(n, s) for n, s in enumerate(written.sentences) if s.section == "findings"]


def test_an_untouched_draft_has_no_problem(drafts):
    for score, written in drafts:
        assert check(written.text, score) == ()


def test_another_state_is_caught(drafts, vocabulary):
    for score, written in drafts[:25]:
        for place, sentence in _body(written):
            subject, state = sentence.evidence[0].subject, sentence.evidence[0].state
            for other in {"present", "uncertain", "absent", "not_assessed"} - {state}:
                for choice in choices((Statement(subject, other),), 0, "", vocabulary):
                    kinds = {p.kind for p in check(_replaced(written, place, choice.text), score)}
                    assert "polarity" in kinds


def test_a_negation_put_in_or_taken_out_is_caught(drafts):
    tried = 0
    for score, written in drafts:
        for place, sentence in _body(written):
            flipped = re.sub(r"\bThere are no\b", "There are", sentence.text)
            if flipped == sentence.text:
                flipped = re.sub(r"\b(are|may be)\b", r"\1 not", sentence.text, count=1)
            if flipped == sentence.text or "possible" in flipped:
                continue
            tried += 1
            assert check(_replaced(written, place, flipped), score), flipped
    assert tried > 300


def test_a_dropped_sentence_is_caught_whichever_it_is(drafts):
    for score, written in drafts:
        for place in range(len(written.sentences)):
            assert check(_replaced(written, place, []), score)


def test_a_repeated_sentence_is_caught_whichever_it_is(drafts):
    for score, written in drafts:
        for place, sentence in enumerate(written.sentences):
            assert check(_replaced(written, place, [sentence.text] * 2), score)


@pytest.mark.parametrize(
    ("addition", "kind"),
    [
        ("Signs of diabetic retinopathy of a reportable grade are seen.", "unsupported"),
        ("Drusen are present.", "unread"),
        ("There are large exudates.", "unread"),
        ("There is a cataract.", "unread"),
        ("The patient has hypertension.", "unread"),
        ("No findings.", "unread"),
        ("Haemorrhages are unchanged.", "prior"),
        ("There are new haemorrhages.", "prior"),
        ("Maculopathy compared with the previous photograph is stable.", "prior"),
        ("There are 3 microaneurysms.", "number"),
        ("The most probable grade is severe diabetic retinopathy.", "grade"),
        ("Left eye and right eye.", "laterality"),
        ("Please repeat the photograph.", "advice"),
        ("The photograph is blurred.", "quality"),
    ],
)
def test_an_added_sentence_is_caught(drafts, addition, kind):
    for score, written in drafts:
        kinds = {p.kind for p in check(f"{written.text} {addition}", score)}
        assert kind in kinds


def test_a_swapped_dropped_or_widened_side_is_caught(drafts):
    for score, written in drafts:
        side = {"L": "left", "R": "right"}[score.image.laterality]
        other = {"left": "right", "right": "left"}[side]
        for change in (other, "", "left or right", "both"):
            text = written.text.replace(side, change)
            assert "laterality" in {p.kind for p in check(text, score)}, text
        for place, sentence in _body(written):
            sided = sentence.text.replace(".", f" in the {other} eye.")
            assert "laterality" in {p.kind for p in check(_replaced(written, place, sided), score)}


def test_a_side_where_none_is_known_is_caught(vocabulary, demo_like_scores):
    score = demo_like_scores[0]
    unknown = score.model_copy(update={"image": score.image.model_copy(update={"laterality": "U"})})
    text = draft(unknown, vocabulary).text
    assert "eye." not in text
    assert check(f"This is a photograph of the left eye. {text}", unknown)


def test_an_impression_of_another_verdict_is_caught(drafts):
    words = ("positive", "negative", "indeterminate")
    for score, written in drafts:
        now = next(w for w in words if f" {w} for" in written.text)
        for other in set(words) - {now}:
            kinds = {p.kind for p in check(written.text.replace(now, other), score)}
            assert "overall" in kinds
        text = written.text.replace(f"is {now} for", f"is not {now} for")
        assert "overall" in {p.kind for p in check(text, score)}


def test_a_negative_impression_that_hides_other_findings_is_caught(drafts, vocabulary):
    tried = 0
    for score, written in drafts:
        last = written.sentences[-1]
        if last.evidence[0].state != "absent_but_others":
            continue
        tried += 1
        plain = choices((Statement("overall", "absent"),), 0, score.primary, vocabulary)[-1].text
        assert "overall" in {
            p.kind for p in check(_replaced(written, len(written.sentences) - 1, plain), score)
        }
    assert tried > 5


def test_referral_is_advised_for_referable_retinopathy_only(vocabulary, demo_like_scores):
    score = next(s for s in demo_like_scores if s.verdict == "positive")
    text = draft(score, vocabulary).text
    assert "referral to an eye clinic is advised" in text
    mild = next(s for s in demo_like_scores if s.findings[1].state == "present")
    mild = mild.model_copy(
        update={"primary": "microaneurysms", "verdict": "positive", "findings": mild.findings[1:2]}
    )
    reviewed = draft(mild, vocabulary).text
    assert "review by a clinician is advised" in reviewed
    referred = reviewed.replace("review by a clinician", "referral to a clinic")
    assert "advice" in {p.kind for p in check(referred, mild)}


def test_a_finding_in_an_ungradable_draft_is_caught(vocabulary, demo_like_scores):
    score = demo_like_scores[0]
    quality = score.quality.model_copy(update={"sufficient": False, "reasons": ("too dark: 1",)})
    bad = score.model_copy(update={"verdict": "insufficient_quality", "quality": quality})
    text = draft(bad, vocabulary).text
    assert check(text, bad) == ()
    for addition in ("No exudates.", "Negative for maculopathy.", "Right eye.", "Grade: mild."):
        assert check(f"{text} {addition}", bad)
    assert check(text, score)  # the same notice about a judged image


def test_every_reason_of_the_quality_check_has_words_of_its_own(vocabulary):
    words = set(_WORDS.values()) | {"too bright", "not the colour of a retina"}
    assert set(REASONS) == words
    assert set(vocabulary.notices.reasons) == words | {"other"}


def test_another_reason_or_none_or_one_too_many_is_caught(vocabulary, demo_like_scores):
    given = ("too dark: 1", "out of focus: 2")
    quality = demo_like_scores[0].quality.model_copy(update={"sufficient": False, "reasons": given})
    bad = demo_like_scores[0].model_copy(
        update={"verdict": "insufficient_quality", "quality": quality}
    )
    text = draft(bad, vocabulary).text
    assert check(text, bad) == ()
    reasons = vocabulary.notices.reasons
    dark = reasons["too dark"]
    for other in (reasons["too bright"], reasons["other"], ""):
        assert check(text.replace(dark, other), bad)
    assert check(text.replace(dark, f"{dark} {reasons['too bright']}"), bad)
    assert check(text.replace(dark, f"{dark} {vocabulary.notices.further}"), bad)


@pytest.mark.parametrize(
    "text",
    [
        "Positive for referable diabetic retinopathy; no referral advised.",
        "This is not a photograph of the right eye.",
        "This may be a photograph of the right eye.",
        "The photograph is not blurred.",
        "This image is not outside what the software was made for.",
        "Negative for maculopathy, but the other findings need no review by a clinician.",
        "There are no haemorrhages, but there are.",
        "Haemorrhages are present, however not.",
        "Please do not repeat the photograph.",
    ],
)
def test_what_a_negation_turns_outside_of_findings_is_not_read_as_said(text):
    assert read(text).unread == (text,)


@pytest.mark.parametrize(
    "text", ["The quality is not insufficient.", "The quality may be sufficient."]
)
def test_a_quality_that_is_turned_is_unclear(text):
    assert read(text).quality == ("unclear",)


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("There is no neovascularisation.", {"new_vessels": "absent"}),
        ("Haemorrhages cannot be excluded.", {"haemorrhages": "uncertain"}),
        ("Free of hard exudates.", {"exudates": "absent"}),
        (
            "Hemorrhages, but no microaneurysms.",
            {"haemorrhages": "present", "microaneurysms": "absent"},
        ),
        (
            "Without exudates; macular oedema might be present.",
            {"exudates": "absent", "maculopathy": "uncertain"},
        ),
        ("New vessels were not evaluated.", {"new_vessels": "not_assessed"}),
        ("There are not no exudates.", {"exudates": "unclear"}),
        ("Possible exudates, not present.", {"exudates": "unclear"}),
        ("The software didn't see exudates.", {"exudates": "absent"}),
        ("Exudates present, positive for haemorrhages.", {"exudates": "present"}),
        ("Haemorrhages are present but not certain.", {"haemorrhages": "uncertain"}),
    ],
)
def test_sentences_that_are_not_ours_are_read(text, findings):
    assert {m.finding: m.state for m in read(text).findings} == findings


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        ("Grade: non-proliferative, moderate.", ("2",)),
        ("The grade is not severe.", ("unclear",)),
        ("Grade: mild or moderate.", ("unclear",)),
    ],
)
def test_grades_that_are_not_ours_are_read(text, grades):
    assert read(text).grades == grades
