"""What POST /v1/scores answers, over a real connection: scores, and refusals after which it goes on."""

import base64
import concurrent.futures
import io

import numpy as np
import pytest
from PIL import Image

from data_schemas.dataset import REFUSALS
from data_schemas.files import sha256
from data_schemas.score import Score
from services.inference.problems import SERVICE_CODES, Problem
from tests.services import drawn_files as drawn
from tests.services.conftest import log_with, shared

JPEG = drawn.encoded(drawn.fundus())


def post(client, data, query="", **headers):
    return client.post(f"/v1/scores{query}", content=data, headers=headers)


def score_of(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return Score.from_tree(answer.json(), where="answer")


def check_problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate(answer.json())
    assert (problem.status, problem.code) == (status, code)
    assert problem.code in REFUSALS or problem.code in SERVICE_CODES
    assert problem.detail
    assert problem.instance == f"urn:uuid:{answer.headers['x-request-id']}"
    return problem


def check_alive(client):
    score_of(post(client, JPEG))


def test_a_photograph_is_scored(client, package):
    score = score_of(post(client, JPEG, **{"Content-Type": "image/jpeg"}))
    assert score.image.source_sha256 == sha256(JPEG)
    assert (score.image.format, score.image.rows, score.image.columns) == ("jpeg", 480, 480)
    assert score.model.package_sha256 == package.sha256
    assert score.model.contract_sha256 == package.contract.digest()
    assert score.verdict in ("positive", "negative", "indeterminate")
    assert set(score.probabilities) == {"referable", "exudates"}
    assert score.evidence == ()


def test_the_answer_does_not_depend_on_the_content_type_or_the_container(client):
    pixels = drawn.fundus(3)
    png, dcm = drawn.encoded(pixels, "PNG"), drawn.dicom(pixels)
    scores = [
        score_of(post(client, png, **{"Content-Type": "application/octet-stream"})),
        score_of(post(client, png, **{"Content-Type": "image/jpeg"})),
        score_of(post(client, png)),
        score_of(post(client, dcm, **{"Content-Type": "application/dicom"})),
    ]
    assert len({score.image.prepared_sha256 for score in scores}) == 1
    assert len({score.logits for score in scores}) == 1
    assert scores[3].image.format == "dicom"
    assert scores[3].image.laterality == "L"


@pytest.mark.needs_shared
@pytest.mark.parametrize("folder", ["images", "full_size"])
def test_a_real_fundus_photograph_is_scored(client, folder):
    root = shared("fundus_rahim", folder)
    file = next(
        path for path in sorted(root.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")
    )
    score = score_of(post(client, file.read_bytes(), "?evidence=true"))
    with Image.open(file) as picture:
        assert (score.image.columns, score.image.rows) == picture.size


def test_multipart_is_scored_like_the_raw_body(client):
    answer = client.post("/v1/scores", files={"file": ("name.jpg", JPEG, "image/jpeg")})
    assert score_of(answer) == score_of(post(client, JPEG))


def test_evidence_sums_to_the_logit_and_its_picture_can_be_read(client):
    score = score_of(post(client, JPEG, "?evidence=true"))
    assert {found.label for found in score.evidence} == {"referable", "exudates"}
    for found, logit in zip(score.evidence, score.logits, strict=True):
        assert np.mean(found.values) + found.bias == pytest.approx(found.logit, abs=1e-4)
        assert found.logit == pytest.approx(logit, abs=1e-4)
        with Image.open(io.BytesIO(base64.b64decode(found.overlay_png))) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 32


def truncated():
    whole = drawn.dicom(drawn.fundus())
    return whole[: len(whole) * 6 // 10]


BROKEN = {
    "text": (lambda: b"This is a letter, not an image.\n" * 20, 415, {"NOT_AN_IMAGE"}),
    "truncated DICOM": (truncated, 422, {"TRUNCATED"}),
    "truncated JPEG": (lambda: JPEG[: len(JPEG) // 2], 422, {"TRUNCATED", "CORRUPT"}),
    "JPEG's first bytes": (lambda: JPEG[:20], 422, {"TRUNCATED", "CORRUPT"}),
    "200 megapixels": (lambda: drawn.png_of_zeros(20000, 10000), 413, {"TOO_LARGE"}),
    "black photograph": (
        lambda: drawn.encoded(np.zeros((300, 300, 3), np.uint8)),
        422,
        {"BLANK", "UNGRADABLE"},
    ),
    "one byte": (lambda: b"\x00", 415, {"NOT_AN_IMAGE"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_for_this_model_is_refused_and_the_service_goes_on(client, name):
    make, status, codes = BROKEN[name]
    answer = post(client, make())
    problem = check_problem(answer, status, answer.json()["code"])
    assert problem.code in codes
    assert problem.title == REFUSALS[problem.code]
    check_alive(client)


@pytest.mark.parametrize("evidence", ["false", "true"])
def test_a_sound_image_of_another_kind_is_an_answer_and_is_counted(client, evidence):
    answer = post(client, drawn.ct_slice(), f"?evidence={evidence}")
    assert answer.status_code == 200, answer.text
    score = Score.model_validate_json(answer.content)
    assert score.verdict == "out_of_scope"
    assert not score.scope.inside
    assert score.scope.reasons == ("the image is grey, the contract takes colour only",)
    assert (score.probabilities, score.logits, score.evidence) == ({}, (), ())
    assert score.image.modality == "CT"
    assert 'hilum_scores_total{verdict="out_of_scope"' in client.get("/metrics").text


def test_an_empty_body_is_refused(client):
    check_problem(post(client, b""), 400, "EMPTY_BODY")
    check_problem(client.post("/v1/scores"), 400, "EMPTY_BODY")
    check_alive(client)


def test_a_wrong_parameter_is_refused_without_repeating_it(client):
    problem = check_problem(post(client, JPEG, "?evidence=Muster"), 422, "INVALID_REQUEST")
    assert "evidence" in problem.detail
    assert "Muster" not in problem.model_dump_json()


def test_fifty_mixed_requests_at_once_each_get_their_own_answer(served):
    photographs = {seed: drawn.encoded(drawn.fundus(seed, 320)) for seed in range(5)}
    with served.client() as client:
        alone = {seed: score_of(post(client, data)) for seed, data in photographs.items()}
    broken = [b"text " * 50, truncated(), JPEG[:20], b""]

    def send(number):
        with served.client() as client:
            if number % 5 == 4:
                answer = post(client, broken[number % len(broken)])
                return 400 <= answer.status_code < 500 and answer.json()["status"] == (
                    answer.status_code
                )
            seed = number % 5
            answer = post(client, photographs[seed])
            while answer.status_code == 503:  # as a client should: come back
                assert int(answer.headers["retry-after"]) >= 1
                answer = post(client, photographs[seed])
            return score_of(answer) == alone[seed]

    with concurrent.futures.ThreadPoolExecutor(25) as pool:
        assert all(pool.map(send, range(50)))
    with served.client() as client:
        check_alive(client)


def test_a_patients_name_is_neither_answered_nor_logged(client, served):
    data = drawn.dicom(drawn.fundus(7))
    answer = client.post("/v1/scores", files={"file": (f"{drawn.PATIENT_ID}.dcm", data)})
    assert answer.status_code == 200
    refused = post(client, data[: len(data) // 2])
    log = log_with(served, refused.headers["x-request-id"])
    for text in (answer.text, refused.text, log):
        assert drawn.PATIENT_ID not in text
        assert drawn.PATIENT.partition("^")[0] not in text
