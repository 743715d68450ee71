"""Several images in one request: one patient's, many independent ones; and what may be asked for."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from data_schemas.contract import Quality
from data_schemas.patient import PatientScore
from data_schemas.score import Score
from services.inference.answers import BatchAnswer
from tests.model import tiny_network as tiny
from tests.services import drawn_files as drawn
from tests.services.conftest import CONTRACT, serving, wait_until_ready, write_package
from tests.services.test_scores import JPEG, check_alive, check_problem, post, score_of, truncated
from tests.services.test_service import figure

PHOTOGRAPHS = [drawn.encoded(drawn.fundus(seed, 320)) for seed in range(3)]


def form(*files):
    """Return a form of (name of the part, bytes) or bytes."""
    named = [one if isinstance(one, tuple) else ("file", one) for one in files]
    return [(name, ("x.bin", data)) for name, data in named]


def dark():
    """A photograph that can't be judged."""
    return drawn.encoded((drawn.fundus(4, 320) // 12).astype(np.uint8), "PNG")


def patient_of(answer):
    assert answer.status_code == 200, answer.text
    return PatientScore.from_tree(answer.json(), where="answer")


def test_two_eyes_are_one_patient_and_two_scores(client):
    right, left = drawn.dicom(drawn.fundus(1), ImageLaterality="R"), drawn.dicom(drawn.fundus(2))
    alone = [score_of(post(client, data)) for data in (right, left)]
    patient = patient_of(client.post("/v1/scores", files=form(right, left)))
    assert list(patient.images) == alone
    assert [(side.laterality, side.images) for side in patient.sides] == [("R", (0,)), ("L", (1,))]
    for place, side in enumerate(patient.sides):
        assert side.findings == alone[place].findings
        assert side.verdict == alone[place].verdict
    for place, finding in enumerate(patient.findings):
        assert finding.probability == max(s.findings[place].probability for s in alone)
    assert (patient.primary, patient.aggregate) == ("referable", "highest")


def test_a_parts_name_tells_the_side_that_the_file_does_not(client):
    files = form(("left", PHOTOGRAPHS[0]), ("RIGHT", PHOTOGRAPHS[1]), ("other", PHOTOGRAPHS[2]))
    patient = patient_of(client.post("/v1/scores", files=files))
    assert [(side.laterality, side.images) for side in patient.sides] == [
        ("R", (1,)),
        ("L", (0,)),
        ("U", (2,)),
    ]


def test_a_file_under_the_wrong_side_is_refused(client):
    files = form(("right", drawn.dicom(drawn.fundus(1))), ("left", PHOTOGRAPHS[0]))
    problem = check_problem(client.post("/v1/scores", files=files), 422, "INVALID_REQUEST")
    assert "Image 1" in problem.detail


def test_one_refused_file_refuses_the_patient_and_says_which(client):
    answer = client.post("/v1/scores", files=form(PHOTOGRAPHS[0], truncated(), PHOTOGRAPHS[1]))
    problem = check_problem(answer, 422, "TRUNCATED")
    assert problem.detail.startswith("Image 2 of 3: ")
    check_alive(client)


def test_a_batch_answers_each_file_for_itself_and_in_order(client):
    files = [PHOTOGRAPHS[0], b"a letter", PHOTOGRAPHS[1], truncated(), PHOTOGRAPHS[2]]
    names = [
        'hilum_refusals_total{code="TRUNCATED"}',
        'hilum_requests_total{code="200",route="/v1/scores:batch"}',
    ]
    before = [figure(client, name) for name in names]
    answer = client.post("/v1/scores:batch", files=form(*files))
    assert answer.status_code == 200, answer.text
    batch = BatchAnswer.from_tree(answer.json(), where="answer")
    for data, one in zip(files, batch.answers, strict=True):
        alone = post(client, data)
        if alone.status_code == 200:
            assert one.score == score_of(alone)
            assert one.problem is None
        else:
            assert one.score is None
            assert one.problem.code == alone.json()["code"]
            assert one.problem.detail == alone.json()["detail"]
            assert one.problem.request_id == answer.headers["x-request-id"]
    after = [figure(client, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1]  # one alone, one here


def test_scores_of_a_batch_are_counted(client):
    verdict = score_of(post(client, JPEG)).verdict
    name = f'hilum_scores_total{{verdict="{verdict}",version=""}}'
    before = figure(client, name)
    client.post("/v1/scores:batch", files=form(*[JPEG] * 7))
    client.post("/v1/scores", files=form(*[JPEG] * 4))
    assert figure(client, name) == before + 11


def test_a_batch_must_be_a_form(client):
    answer = client.post("/v1/scores:batch", content=JPEG)
    check_problem(answer, 400, "BAD_MULTIPART")


def test_a_batch_longer_than_the_queue_is_answered_whole(package, tmp_path):
    with (
        serving(package.folder, tmp_path / "log", "--threads", "1", "--queue", "0") as running,
        running.client() as client,
    ):
        wait_until_ready(running)
        answer = client.post("/v1/scores:batch", files=form(*PHOTOGRAPHS * 4))
        found = [one["score"]["image"]["source_sha256"] for one in answer.json()["answers"]]
        assert len(found) == 12
        assert found[:3] == found[3:6] == found[9:]


def test_images_and_bytes_of_one_request_are_bounded(package, tmp_path):
    bounds = {"HILUM_MAX_IMAGES": "3", "HILUM_MAX_BODY_MB": "1", "HILUM_MAX_IMAGES_MB": "2"}
    with (
        serving(package.folder, tmp_path / "log", **bounds) as running,
        running.client() as client,
    ):
        wait_until_ready(running)
        for address in ("/v1/scores", "/v1/scores:batch"):
            answer = client.post(address, files=form(*PHOTOGRAPHS, JPEG))
            assert "3" in check_problem(answer, 413, "TOO_MANY_IMAGES").detail
            answer = client.post(address, files=form(JPEG, bytes(2**20 + 1)))
            assert "File 2" in check_problem(answer, 413, "BODY_TOO_LARGE").detail
            answer = client.post(address, files=form(*[bytes(900_000)] * 3))
            check_problem(answer, 413, "BODY_TOO_LARGE")
        check_alive(client)
        assert figure(client, "hilum_held_bytes") == 0


@pytest.mark.parametrize("kind", ["png", "array", "both", "true", "1"])
def test_evidence_comes_as_asked(client, kind):
    both = score_of(post(client, JPEG, "?evidence=both"))
    score = score_of(post(client, JPEG, f"?evidence={kind}"))
    for found, whole in zip(score.evidence, both.evidence, strict=True):
        assert found.region == whole.region
        assert found.values == (() if kind == "png" else whole.values)
        assert found.overlay_png == ("" if kind == "array" else whole.overlay_png)
    without = score.model_copy(update={"evidence": ()})
    assert without == score_of(post(client, JPEG, "?evidence=false"))


def test_evidence_is_drawn_on_the_original_picture(client):
    """A wide picture with the eye at its right end: colour is there, and nowhere else."""
    wide = np.zeros((600, 1000, 3), np.uint8)
    wide[:, 400:] = drawn.fundus(5, 600)
    score = score_of(post(client, drawn.encoded(wide, "PNG"), "?evidence=both"))
    for found in score.evidence:
        with Image.open(io.BytesIO(base64.b64decode(found.overlay_png))) as picture:
            drawn_map = np.asarray(picture.convert("RGB")).astype(int)
        assert drawn_map.shape[1] / drawn_map.shape[0] == pytest.approx(1000 / 600, rel=0.01)
        coloured = np.flatnonzero((np.ptp(drawn_map, axis=2) > 10).any(axis=0))
        left, width = found.region[1], found.region[3]
        scale = drawn_map.shape[1] / 1000
        assert left > 350
        assert coloured.size
        assert coloured.min() >= left * scale - 2
        assert coloured.max() <= (left + width) * scale + 2


def test_the_embedding_and_all_points_come_where_asked_for(client, package):
    plain = post(client, JPEG).json()
    assert {"embedding", "points"} & set(plain) == set()
    score = score_of(post(client, JPEG, "?embedding=true&points=all"))
    assert len(score.embedding) == 8
    assert {(p.label, p.name) for p in score.points} == {
        (p.label, p.name) for p in package.card.operating_points
    }
    for point in score.points:
        found = next(one for one in score.findings if one.name == point.label)
        assert point.state == found.state
    assert score.model_copy(update={"embedding": (), "points": ()}) == Score.from_tree(
        plain, where="answer"
    )


def test_a_patient_with_an_eye_that_cannot_be_judged_is_not_called_negative(tmp_path):
    points = tuple(tiny.point(label, 0.999, 0.9999) for label in ("referable", "exudates"))
    contract = CONTRACT.model_copy(update={"quality": Quality(check=True, min_brightness=30)})
    package = write_package(tmp_path / "package", contract, points=points)
    with (
        serving(package.folder, tmp_path / "log") as running,
        running.client() as client,
    ):
        wait_until_ready(running)
        score = score_of(post(client, dark(), "?embedding=true&points=all&evidence=both"))
        assert score.verdict == "insufficient_quality"
        assert (score.embedding, score.evidence) == ((), ())
        assert {point.state for point in score.points} == {"not_assessed"}
        assert score_of(post(client, JPEG)).verdict == "negative"
        patient = patient_of(
            client.post("/v1/scores", files=form(("left", JPEG), ("right", dark())))
        )
        assert patient.verdict == "insufficient_quality"
        assert [side.verdict for side in patient.sides] == ["insufficient_quality", "negative"]
        assert {finding.state for finding in patient.findings} == {"not_assessed"}
        # a second view of that eye is enough
        patient = patient_of(
            client.post(
                "/v1/scores",
                files=form(("left", JPEG), ("right", dark()), ("right", PHOTOGRAPHS[0])),
            )
        )
        assert patient.verdict == "negative"


@pytest.mark.parametrize("query", ["?evidence=svg", "?embedding=perhaps", "?points=some"])
def test_unknown_options_are_refused(client, query):
    for address in ("/v1/scores", "/v1/scores:batch"):
        answer = client.post(address + query, files=form(JPEG))
        check_problem(answer, 422, "INVALID_REQUEST")
