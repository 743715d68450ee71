"""Every address that scores: the same keys, receipts, limits, deadlines and figures, whatever the protocol."""

import base64
import json

import pytest

from data_schemas.keys import new_key
from data_schemas.receipt import output_digest
from data_schemas.score import Score
from services.cli.main import main
from services.inference.receipt_check import find_receipt, verify_log
from tests.services.conftest import serving, wait_until_ready
from tests.services.test_access import ring_of
from tests.services.test_receipts_served import score_ids
from tests.services.test_scores import JPEG, check_problem
from tests.services.test_service import figure
from tests.services.test_several import PHOTOGRAPHS, form

TEXTS = [base64.b64encode(one).decode() for one in PHOTOGRAPHS]
TENSOR = {"name": "files", "datatype": "BYTES", "shape": [3], "data": TEXTS}
DOORS = {
    "/v1/scores": {"files": form(*PHOTOGRAPHS)},
    "/v1/scores:batch": {"files": form(*PHOTOGRAPHS)},
    "/v2/models/small-fundus/infer": {"json": {"inputs": [TENSOR], "outputs": [{"name": "score"}]}},
    "/invocations": {"json": {"instances": TEXTS}},
}
"""Each with the same three photographs."""


@pytest.fixture(scope="module")
def guarded(package, tmp_path_factory):
    """A service with keys and receipts: its address, the keys' texts, the folder of receipts."""
    place = tmp_path_factory.mktemp("doors")
    keys = {
        "score": new_key("score", ("score",)),
        "metrics": new_key("metrics", ("metrics",)),
        "slow": new_key("slow", ("score",), rate=2.0),
    }
    ring_of(place / "keys.json", *(key for key, _ in keys.values()))
    words = {
        "HILUM_KEYS_FILE": str(place / "keys.json"),
        "HILUM_RECEIPTS": str(place / "receipts"),
        "HILUM_MAX_BODY_MB": "1",
        "HILUM_MAX_IMAGES_MB": "1",
    }
    with serving(package.folder, place / "log", **words) as running:
        wait_until_ready(running)
        yield running, {name: text for name, (_, text) in keys.items()}, place / "receipts"


def scores_of(door, answer):
    """Return the scores in an answer of any door."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    tree = answer.json()
    trees = {
        "/v1/scores": lambda: tree["images"],
        "/v1/scores:batch": lambda: [one["score"] for one in tree["answers"]],
        "/v2/models/small-fundus/infer": lambda: map(json.loads, tree["outputs"][0]["data"]),
        "/invocations": lambda: [
            {name: value for name, value in one.items() if name != "probability"}
            for one in tree["predictions"]
        ],
    }[door]()
    return [Score.from_tree(one, where=door) for one in trees]


@pytest.mark.parametrize("door", DOORS)
def test_every_door_asks_for_a_key(guarded, door):
    running, texts, _ = guarded
    with running.client() as client:
        check_problem(client.post(door, **DOORS[door]), 401, "UNAUTHENTICATED")
        headers = {"X-API-Key": texts["metrics"]}
        check_problem(client.post(door, **DOORS[door], headers=headers), 403, "FORBIDDEN")
        for health in ("/ping", "/v2/health/live", "/v2/health/ready"):
            assert client.get(health).status_code == 200


def test_every_door_gives_the_same_scores_with_a_receipt_for_each_image(guarded):
    running, texts, folder = guarded
    headers = {"X-API-Key": texts["score"]}
    metrics = {"X-API-Key": texts["metrics"]}
    found = {}
    with running.client(headers=headers) as client:
        before = len(score_ids(folder))
        for door, body in DOORS.items():
            found[door] = scores_of(door, client.post(door, **body))
        assert len(score_ids(folder)) == before + 3 * len(DOORS)
    given = [score for scores in found.values() for score in scores]
    assert len({score.score_id for score in given}) == len(given)
    for score in given:
        receipt, _, _ = find_receipt(folder, score.score_id)
        assert receipt.output_sha256 == output_digest(score)
        assert receipt.input_sha256 == score.image.source_sha256
    plain = {
        door: [score.model_copy(update={"score_id": ""}) for score in scores]
        for door, scores in found.items()
    }
    assert all(scores == plain["/v1/scores"] for scores in plain.values())
    assert verify_log(folder).flaws == []
    with running.client(headers=metrics) as client:
        for door in DOORS:
            route = door.replace("small-fundus", "{name}")
            assert figure(client, f'hilum_requests_total{{code="200",route="{route}"}}') == 1


@pytest.mark.parametrize("door", DOORS)
def test_every_door_keeps_the_deadline_and_the_bounds(guarded, door):
    running, texts, _ = guarded
    with running.client(headers={"X-API-Key": texts["score"]}) as client:
        late = {"X-Request-Timeout": "0.0001"}
        answer = client.post(door, **DOORS[door], headers=late)
        check_problem(answer, 503, "TOO_LATE")
        assert int(answer.headers["retry-after"]) >= 1
        large = [base64.b64encode(bytes(600_000)).decode()] * 3
        body = {
            "files": form(*[bytes(600_000)] * 3),
            "json": {"instances": large, "inputs": [{**TENSOR, "data": large}]},
        }
        kind = next(iter(DOORS[door]))
        check_problem(client.post(door, **{kind: body[kind]}), 413, "BODY_TOO_LARGE")
        assert client.post("/v1/scores", content=JPEG).status_code == 200


def test_a_request_of_many_images_counts_as_many_for_its_key(guarded):
    running, texts, _ = guarded
    with running.client(headers={"X-API-Key": texts["slow"]}) as client:
        assert client.post("/v1/scores:batch", files=form(*PHOTOGRAPHS * 4)).status_code == 200
        answer = client.get("/v1/model")
        check_problem(answer, 429, "RATE_LIMITED")
        assert int(answer.headers["retry-after"]) >= 3


def test_a_prepared_image_is_replayed_from_its_bytes(guarded, package, tmp_path, capsys):
    from pipeline.imaging.prepare import prepare
    from pipeline.imaging.read import read

    running, texts, folder = guarded
    pixels = prepare(read(JPEG, package.contract), package.contract).pixels
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [1, *pixels.shape],
        "data": pixels.ravel().tolist(),
    }
    with running.client(headers={"X-API-Key": texts["score"]}) as client:
        answer = client.post("/v2/models/small-fundus/infer", json={"inputs": [tensor]})
    outputs = {one["name"]: one["data"] for one in answer.json()["outputs"]}
    (tmp_path / "pixels").write_bytes(pixels.tobytes())
    words = ("--input", str(tmp_path / "pixels"), "--log", str(folder))
    words = (*words, "--model", str(package.folder))
    assert main(["replay", outputs["score_id"][0], *words]) == 0, capsys.readouterr()
