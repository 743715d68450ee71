"""A draft says what the score says: for any score, for any writer, read back by two readers."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_schemas.errors import HilumError, ReportError
from data_schemas.report import BANNER, Draft
from data_schemas.score import QualityAnswer
from pipeline.report.check import check
from pipeline.report.evidence import statements
from pipeline.report.language import tokens_of
from pipeline.report.render import to_text
from pipeline.report.write import draft, open_writer

ROOT = Path(__file__).parents[2]
VERDICT = {"positive": "positive", "negative": "negative", "indeterminate": "indeterminate"}


class AnyWeights:
    """A writer whose logits are noise that follows from its seed and the words before."""

    def __init__(self, vocabulary, seed=0, scale=1.0):
        self.tokens = tokens_of(vocabulary)
        self.sha256 = f"{seed:064x}"
        self.seed, self.scale = seed, scale

    def logits(self, numbers):
        rng = np.random.default_rng([self.seed, *numbers])
        return (self.scale * rng.standard_normal(len(self.tokens))).astype(np.float32)


def assert_same_as_score(score, text, second_reader):
    """Set equality of findings and states, side, grade and impression, by the tests' own reader."""
    said = second_reader(text)
    expected = {f.name: [f.state] for f in score.findings}
    beyond = {n: s for n, s in said.findings.items() if n not in expected}
    assert {n: s for n, s in said.findings.items() if n in expected} == expected, text
    assert all(states == ["not_assessed"] for states in beyond.values()), text
    assert said.overall == [(score.primary, VERDICT[score.verdict])], text
    sides = {"L": ["left"], "R": ["right"]}
    assert said.eyes == sides.get(score.image.laterality, []), text
    assert len(said.grades) == (
        "dr_grade" in score.probabilities and len(score.probabilities["dr_grade"]) == 5
    ), text
    if said.grades and said.grades != ["uncertain"]:
        values = list(score.probabilities["dr_grade"].values())
        assert said.grades == [str(int(np.argmax(values)))]


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_weights_write_only_what_any_score_says(
    vocabulary, any_score, second_reader, data, seed
):
    score = data.draw(any_score)
    written = draft(score, vocabulary, AnyWeights(vocabulary, seed))
    assert written.source == "writer", written.fallback_reason
    assert_same_as_score(score, written.text, second_reader)


def test_no_demo_like_draft_adds_or_leaves_out_a_finding(
    vocabulary, demo_like_scores, second_reader, writer_folder
):
    writer = open_writer(writer_folder)
    for score in demo_like_scores:
        written = draft(score, vocabulary, writer)
        assert written.source == "writer"
        assert_same_as_score(score, written.text, second_reader)
        assert check(written.text, score) == ()


def test_fixed_sentences_read_back_as_well(vocabulary, demo_like_scores, second_reader):
    for score in demo_like_scores:
        written = draft(score, vocabulary)
        assert (written.source, written.fallback_reason) == ("fixed", "")
        assert_same_as_score(score, written.text, second_reader)


def test_the_same_score_and_writer_give_the_same_bytes(vocabulary, demo_like_scores, writer_folder):
    once = [draft(s, vocabulary, open_writer(writer_folder)) for s in demo_like_scores[:5]]
    again = [draft(s, vocabulary, open_writer(writer_folder)) for s in demo_like_scores[:5]]
    assert [d.digest() for d in once] == [d.digest() for d in again]
    assert [to_text(d) for d in once] == [to_text(d) for d in again]


def test_equal_logits_are_decided_by_token_number(vocabulary, demo_like_scores):
    flat = AnyWeights(vocabulary, scale=0.0)
    texts = {draft(demo_like_scores[0], vocabulary, flat).text for _ in range(3)}
    assert len(texts) == 1


def test_every_sentence_names_its_evidence_limits_and_model(vocabulary, demo_like_scores):
    for score in demo_like_scores[:50]:
        written = draft(score, vocabulary, AnyWeights(vocabulary, 1))
        assert written.text == " ".join(s.text for s in written.sentences)
        found = {f.name: f for f in score.findings}
        told = [e for s in written.sentences if s.section == "findings" for e in s.evidence]
        assert sorted(e.subject for e in told) == sorted(found)
        for e in told:
            f = found[e.subject]
            assert (e.probability, e.low, e.high, e.state) == (
                f.probability,
                f.low,
                f.high,
                f.state,
            )
        assert {s.package_sha256 for s in written.sentences} == {score.model.package_sha256}


def test_another_model_digest_gives_another_draft_digest(vocabulary, demo_like_scores):
    score = demo_like_scores[0]
    other = score.model.model_copy(update={"package_sha256": "a" * 64})
    changed = score.model_copy(update={"model": other})
    assert draft(score, vocabulary).digest() != draft(changed, vocabulary).digest()
    assert draft(score, vocabulary).text == draft(changed, vocabulary).text


def test_wording_changes_at_the_two_limits_and_nowhere_else(vocabulary, demo_like_scores):
    base = demo_like_scores[0]
    low, high = 0.25, 0.55
    sweep = sorted({*np.linspace(0, 1, 101), low - 1e-9, low, low + 1e-9, high - 1e-9, high})
    said = []
    for p in sweep:
        state = "present" if p >= high else "absent" if p < low else "uncertain"
        change = {"probability": float(p), "state": state}
        others = tuple(f for f in base.findings if f.name != "exudates")
        exudates = next(f for f in base.findings if f.name == "exudates")
        score = base.model_copy(update={"findings": (*others, exudates.model_copy(update=change))})
        sentences = draft(score, vocabulary).sentences
        said.append(next(s.text for s in sentences if s.evidence[0].subject == "exudates"))
    changes = [sweep[n + 1] for n in range(len(said) - 1) if said[n] != said[n + 1]]
    assert changes == [low, high]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (("not sharp: 1.20 < 3.00",), "The photograph is blurred."),
        (
            ("too dark: 12 < 30", "field not visible: 0.31 < 0.70"),
            "The photograph is too dark. Too little of the field of view is visible.",
        ),
        (
            ("out of focus: focus 0.10, typical 0.40", "overexposed: burnt 0.40, typical 0.01"),
            "The photograph is overexposed. The photograph is out of focus.",
        ),
        (("something else: 4",), "There is a further reason, which the score names."),
        (
            ("too dark: 12 < 30", "something else: 4"),
            "The photograph is too dark. There is a further reason, which the score names.",
        ),
        ((), "The software gives no further reason."),
    ],
)
def test_ungradable_says_only_that_why_and_what_to_do(
    vocabulary, demo_like_scores, reasons, expected
):
    texts = set()
    for score in demo_like_scores[:20]:
        bad = score.model_copy(
            update={
                "verdict": "insufficient_quality",
                "quality": QualityAnswer(sufficient=False, reasons=reasons),
            }
        )
        written = draft(bad, vocabulary, AnyWeights(vocabulary))
        assert {s.section for s in written.sentences} == {"notice"}
        texts.add(written.text)
    (text,) = texts
    words = vocabulary.notices
    assert text == f"{words.insufficient} {expected} {words.insufficient_advice}"


def test_out_of_scope_says_only_that(vocabulary, demo_like_scores):
    score = demo_like_scores[0].model_copy(update={"verdict": "out_of_scope"})
    words = vocabulary.notices
    assert draft(score, vocabulary).text == f"{words.out_of_scope} {words.out_of_scope_advice}"


class Broken(AnyWeights):
    """A writer that fails in one way."""

    def __init__(self, vocabulary, how):
        super().__init__(vocabulary)
        self.how = how
        if how == "tokens":
            self.tokens = tuple(t for t in self.tokens if t != "photograph")

    def logits(self, numbers):
        if self.how == "exception":
            raise RuntimeError("no memory")
        if self.how == "shape":
            return np.zeros(3, np.float32)
        if self.how == "nan":
            return np.full(len(self.tokens), np.nan, np.float32)
        return super().logits(numbers)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exception", "RuntimeError: no memory"),
        ("shape", "shape (3,)"),
        ("nan", "not finite"),
        ("tokens", "'photograph'"),
    ],
)
def test_a_failing_writer_gives_fixed_sentences_and_the_reason(
    vocabulary, demo_like_scores, how, reason
):
    for score in demo_like_scores[:10]:
        written = draft(score, vocabulary, Broken(vocabulary, how))
        assert written.source == "fixed"
        assert reason in written.fallback_reason
        assert written.text == draft(score, vocabulary).text
        assert reason in to_text(written)


def test_a_sentence_that_reads_back_as_something_else_is_not_delivered(
    vocabulary, demo_like_scores
):
    """The brief sentences of this vocabulary lie; the full ones don't."""
    words = vocabulary.findings["haemorrhages"]
    lies = {state: dict(phrases) for state, phrases in words.phrases.items()}
    lies["present"]["brief"] = ("Haemorrhages ruled out, none noted.", "Haemorrhages unchanged.")
    haemorrhages = words.model_copy(update={"phrases": lies, "listed": False})
    spoiled = vocabulary.model_copy(
        update={"findings": {**vocabulary.findings, "haemorrhages": haemorrhages}}
    )
    fallbacks = 0
    for score in demo_like_scores[:60]:
        written = draft(score, spoiled, AnyWeights(spoiled, 5))
        assert "noted" not in written.text
        assert "unchanged" not in written.text
        if written.source == "fixed":
            assert "doesn't read back" in written.fallback_reason
            fallbacks += 1
    assert fallbacks > 0


def test_no_draft_comes_out_if_even_the_fixed_sentences_lie(vocabulary, demo_like_scores):
    words = vocabulary.findings["haemorrhages"]
    lies = {state: dict(phrases) for state, phrases in words.phrases.items()}
    lies["present"]["full"] = ("Haemorrhages are not there.", "Haemorrhages have gone.")
    haemorrhages = words.model_copy(update={"phrases": lies})
    spoiled = vocabulary.model_copy(
        update={"findings": {**vocabulary.findings, "haemorrhages": haemorrhages}}
    )
    score = next(
        s
        for s in demo_like_scores
        for f in s.findings
        if (f.name, f.state) == ("haemorrhages", "present")
    )
    with pytest.raises(ReportError, match="haemorrhages is present in the score, absent in the"):
        draft(score, spoiled)


def test_a_score_that_contradicts_itself_is_refused_with_every_fault(vocabulary, demo_like_scores):
    score = next(s for s in demo_like_scores if s.verdict == "positive")
    wrong = score.findings[1].model_copy(update={"probability": 0.01, "state": "present"})
    twice = (score.findings[0], wrong, *score.findings[2:], score.findings[2])
    bad = score.model_copy(update={"findings": twice, "verdict": "negative"})
    with pytest.raises(ReportError) as caught:
        draft(bad, vocabulary)
    for part in ("called present", "stands twice", "the verdict is negative"):
        assert part in str(caught.value)


def test_a_finding_without_words_is_refused(vocabulary, demo_like_scores):
    score = demo_like_scores[0]
    drusen = score.findings[1].model_copy(update={"name": "drusen"})
    bad = score.model_copy(update={"findings": (score.findings[0], drusen)})
    with pytest.raises(ReportError, match="`drusen` is not in the vocabulary fundus"):
        draft(bad, vocabulary)


@pytest.mark.parametrize(
    ("grades", "state", "said"),
    [
        ((0.9, 0.05, 0.03, 0.01, 0.01), "absent", "0"),
        ((0.0, 0.1, 0.7, 0.1, 0.1), "present", "2"),
        ((0.3, 0.3, 0.2, 0.1, 0.1), "uncertain", "uncertain"),  # none reaches one half
        ((0.6, 0.0, 0.2, 0.1, 0.1), "present", "uncertain"),  # no retinopathy, yet referable
        ((0.0, 0.0, 0.6, 0.2, 0.2), "absent", "uncertain"),  # moderate, yet not referable
    ],
)
def test_a_grade_is_stated_if_it_is_sure_and_agrees(
    vocabulary, demo_like_scores, grades, state, said
):
    verdict = {"present": "positive", "absent": "negative", "uncertain": "indeterminate"}[state]
    p = {"present": 0.9, "absent": 0.1, "uncertain": 0.4}[state]
    score = next(s for s in demo_like_scores)
    first = score.findings[0].model_copy(update={"probability": p, "state": state})
    score = score.model_copy(
        update={
            "findings": (first,),
            "verdict": verdict,
            "probabilities": {"dr_grade": dict(zip("01234", grades, strict=True))},
        }
    )
    (grade,) = [s for s in statements(score, vocabulary) if s.subject == "grade"]
    assert grade.state == said
    draft(score, vocabulary)


def test_a_grade_that_the_model_does_not_count_as_positive_is_not_stated_beside_a_positive(
    vocabulary, demo_like_scores
):
    """The score doesn't say which grades are positive; its probabilities do (here 2, 3 and 4)."""
    grades = (0.02, 0.53, 0.25, 0.1, 0.1)
    score = demo_like_scores[0]
    finding = score.findings[0].model_copy(
        update={
            "name": "dr_grade",
            "probability": 0.45,
            "low": 0.3,
            "high": 0.3,
            "state": "present",
        }
    )
    score = score.model_copy(
        update={
            "findings": (finding,),
            "primary": "dr_grade",
            "verdict": "positive",
            "probabilities": {"dr_grade": dict(zip("01234", grades, strict=True))},
        }
    )
    assert [s.state for s in statements(score, vocabulary) if s.subject == "grade"] == ["uncertain"]
    counts_mild = finding.model_copy(update={"probability": 0.98})
    score = score.model_copy(update={"findings": (counts_mild,)})
    assert [s.state for s in statements(score, vocabulary) if s.subject == "grade"] == ["1"]
    draft(score, vocabulary)


def test_the_text_export_begins_with_the_banner_and_holds_every_sentence(
    vocabulary, demo_like_scores
):
    for score in demo_like_scores[:20]:
        written = draft(score, vocabulary)
        shown = to_text(written)
        assert shown.splitlines()[0] == BANNER
        assert shown.splitlines()[-1] == "Signed by: nobody. Not signed."
        for sentence in written.sentences:
            assert shown.count(f"\n{sentence.text}\n") == 1 or sentence.section == "eye"
        for digest in (written.digest(), written.score_sha256, score.model.package_sha256):
            assert digest in shown


def test_a_draft_document_can_not_be_signed_or_lose_its_banner_or_text(
    vocabulary, demo_like_scores
):
    tree = json.loads(draft(demo_like_scores[0], vocabulary).model_dump_json())
    assert Draft.from_tree(tree, where="t").digest()
    for change in ({"status": "final"}, {"banner": "Report"}, {"text": tree["text"] + " x"}):
        with pytest.raises(HilumError):
            Draft.from_tree({**tree, **change}, where="t")


def test_a_changed_writer_is_not_opened(writer_folder, tmp_path):
    for name in ("writer.onnx", "vocabulary.yaml"):
        copy = tmp_path / name.replace(".", "-")
        copy.mkdir()
        for file in writer_folder.iterdir():
            data = file.read_bytes()
            if file.name == name:
                data = (
                    data.replace(b"Right eye.", b"Right ear.")
                    if name.endswith("yaml")
                    else data[:-1] + b"x"
                )
            (copy / file.name).write_bytes(data)
        with pytest.raises(ReportError, match="is not the"):
            open_writer(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HilumError, match="no such file"):
        open_writer(tmp_path / "empty")


def test_writing_needs_neither_torch_nor_mlflow(writer_folder, demo_like_scores, tmp_path):
    path = tmp_path / "score.json"
    demo_like_scores[0].write_json(path)
    code = (
        "import sys; from pathlib import Path; from data_schemas.score import Score\n"
        "from pipeline.report.write import draft, open_writer\n"
        "w = open_writer(Path(sys.argv[1])); d = draft(Score.read_json(Path(sys.argv[2])), w.vocabulary, w)\n"
        "assert d.source == 'writer', d.fallback_reason\n"
        "print(sorted({'torch', 'mlflow', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code, str(writer_folder), str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reader_and_check_share_no_code_with_the_writer():
    allowed = {"read.py": set(), "check.py": {"pipeline.report.read"}}
    for name, ours in allowed.items():
        tree = ast.parse((ROOT / "pipeline/report" / name).read_text())
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {m for m in imported if m.startswith("pipeline")} == ours
        assert "data_schemas.report" not in imported
