"""A vocabulary, scores of all kinds, a trained writer, and a second reader that only tests know."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from data_schemas import settings
from data_schemas.report import Vocabulary, WriterPlan
from data_schemas.score import FindingScore, ModelIdentity, QualityAnswer, Score, ScoredImage

ROOT = Path(__file__).parents[2]
LESIONS = ("microaneurysms", "haemorrhages", "exudates", "new_vessels", "maculopathy")
FINDINGS = ("referable", "dr_grade", *LESIONS)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    layer = settings.from_file(ROOT / "configs/reports/fundus.yaml")
    return settings.resolve(Vocabulary, [layer])


@pytest.fixture(scope="session")
def writer_folder(vocabulary, tmp_path_factory) -> Path:
    """A writer that has seen sixty reports: real files, next to random weights."""
    from pipeline.report.learn import learn

    place = tmp_path_factory.mktemp("writer")
    plan = WriterPlan(epochs=1, reports=60, unseen=8)
    learn(vocabulary, plan, place / "writer", f"sqlite:///{place}/mlflow.db")
    return place / "writer"


@st.composite
def _score(draw, names=FINDINGS):
    """Any consistent score of a judged image, written without the product's own simulation."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    findings = [draw(_finding(name)) for name in chosen]
    judged = [f for f in findings if f.state != "not_assessed"]
    if not judged:
        findings[0] = findings[0].model_copy(update={"probability": 0.9, "state": "present"})
        findings[0] = findings[0].model_copy(update={"low": 0.5, "high": 0.5})
        judged = findings[:1]
    primary = draw(st.sampled_from(judged))
    verdicts = {"present": "positive", "absent": "negative", "uncertain": "indeterminate"}
    grades = {}
    if draw(st.booleans()):
        raw = draw(st.lists(st.floats(0.001, 1), min_size=5, max_size=5))
        grades = {
            "dr_grade": {name: value / sum(raw) for name, value in zip("01234", raw, strict=True)}
        }
    return Score(
        image=ScoredImage(
            source_sha256="1" * 64,
            format="dicom",
            laterality=draw(st.sampled_from("LRUB")),
            rows=10,
            columns=10,
            prepared_sha256="2" * 64,
        ),
        model=ModelIdentity(
            name="m", version="3", package_sha256="4" * 64, contract_sha256="5" * 64, runtime="r"
        ),
        verdict=verdicts[primary.state],
        primary=primary.name,
        operating_point="default",
        threshold=primary.high,
        probabilities=grades,
        logits=(),
        findings=tuple(findings),
        quality=QualityAnswer(features=draw(st.sampled_from([{}, {"sharpness": 2.5}]))),
    )


@st.composite
def _finding(draw, name):
    low, high = sorted(draw(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99))))
    probability = draw(st.one_of(st.floats(0, 1), st.sampled_from([low, high, 0.0, 1.0])))
    if draw(st.integers(0, 9)) == 0:
        probability = draw(st.sampled_from([None, probability]))
        state = "not_assessed"
    elif probability >= high:
        state = "present"
    else:
        state = "absent" if probability < low else "uncertain"
    return FindingScore(name=name, probability=probability, low=low, high=high, state=state)


@pytest.fixture(scope="session")
def any_score():
    """The hypothesis strategy of consistent scores."""
    return _score()


@pytest.fixture(scope="session")
def demo_like_scores(vocabulary):
    """300 seeded scores such as the demo's model gives: all findings, `referable` first."""
    rng = np.random.default_rng(20)
    return [_demo_like(rng) for _ in range(300)]


def _demo_like(rng) -> Score:
    ill = rng.random() < 0.5
    findings = []
    for name in ("referable", *LESIONS):
        p = float(rng.beta(5, 2) if ill and rng.random() < 0.7 else rng.beta(1, 9))
        low, high = 0.25, 0.55
        state = "present" if p >= high else "absent" if p < low else "uncertain"
        findings.append(FindingScore(name=name, probability=p, low=low, high=high, state=state))
    verdicts = {"present": "positive", "absent": "negative", "uncertain": "indeterminate"}
    return Score(
        image=ScoredImage(
            source_sha256=rng.bytes(32).hex(),
            format="dicom",
            modality="OP",
            laterality="L" if rng.random() < 0.5 else "R",
            rows=1000,
            columns=1200,
            prepared_sha256=rng.bytes(32).hex(),
        ),
        model=ModelIdentity(
            name="fundus",
            version="1",
            package_sha256="6" * 64,
            contract_sha256="7" * 64,
            runtime="r",
        ),
        verdict=verdicts[findings[0].state],
        primary="referable",
        operating_point="default",
        threshold=0.55,
        probabilities={f.name: {"0": 1 - f.probability, "1": f.probability} for f in findings},
        logits=(0.0,) * 6,
        findings=tuple(findings),
        quality=QualityAnswer(features={"sharpness": 3.0}),
    )


class SecondReader:
    """Reads a draft by the words that stand in a sentence, without patterns or clauses."""

    STEMS = (
        ("microaneurysms", "microaneurysm"),
        ("haemorrhages", "haemorrhage"),
        ("exudates", "exudate"),
        ("new_vessels", "vessel"),
        ("maculopathy", "maculopathy"),
    )

    def __init__(self, text: str) -> None:
        self.findings: dict[str, list[str]] = {}
        self.overall: list[tuple[str, str]] = []
        self.grades: list[str] = []
        self.eyes: list[str] = []
        for sentence in re.findall(r"[^.]+\.", text):
            self._take(sentence.lower())

    def _take(self, sentence: str) -> None:
        words = re.findall(r"[a-z]+", sentence)
        self.eyes += [word for word in words if word in ("left", "right")]
        names = [name for name, stem in self.STEMS if stem in sentence]
        if "retinopathy" in words and "referable" in words:
            names.append("referable")
        if "reportable" in words:
            names.append("dr_grade")
        verdict = {"positive", "negative", "indeterminate"} & set(words)
        if verdict:
            self.overall += [(name, verdict.copy().pop()) for name in names]
        elif {"grade", "grades"} & set(words) and "reportable" not in words:
            self.grades.append(self._grade(words))
        else:
            for name in names:
                self.findings.setdefault(name, []).append(self._state(words))

    def _state(self, words: list[str]) -> str:
        if {"assess", "assessed"} & set(words):
            return "not_assessed"
        if {"possible", "may", "uncertain"} & set(words):
            return "uncertain"
        return "absent" if {"no", "absent"} & set(words) else "present"

    def _grade(self, words: list[str]) -> str:
        if {"uncertain", "certain"} & set(words):
            return "uncertain"
        for grade, word in enumerate(("no", "mild", "moderate", "severe", "proliferative")):
            if word in words:
                return str(grade)
        return "?"


@pytest.fixture(scope="session")
def second_reader():
    return SecondReader
