"""/invocations and /ping, asked by MLflow's own client, which knows nothing of us."""

import base64

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from services.inference.invocations import order_of
from services.inference.problems import Refusal
from tests.services.test_kserve import FILES, JSON
from tests.services.test_scores import check_problem, post, score_of, truncated

TEXTS = [base64.b64encode(one).decode() for one in FILES]


@pytest.fixture
def asking(served, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url = httpx.URL(served.url)
    return ScoringServerClient(url.host, url.port)


@pytest.fixture
def alone(client):
    return [score_of(post(client, data)) for data in FILES]


def check_same(answer, alone):
    found = answer.get_predictions()
    assert found["probability"].tolist() == [score.findings[0].probability for score in alone]
    assert found["verdict"].tolist() == [score.verdict for score in alone]
    assert found["probabilities"].tolist() == [score.probabilities for score in alone]


def test_the_client_waits_for_a_ready_server(asking):
    # both return nothing, and raise unless the service answers 200
    assert asking.ping() is None
    assert asking.wait_server_ready(timeout=5) is None


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"image": TEXTS}),
        pd.DataFrame({"image": [base64.encodebytes(one).decode() for one in FILES]}),
        pd.DataFrame({"eye": ["L", "R", "L"], "image": TEXTS}, index=["a", "b", "c"]),
        pd.DataFrame({0: TEXTS}),
    ],
    ids=["base64", "base64 in lines", "more columns", "any name"],
)
def test_a_data_frame_gets_the_scores_that_its_files_get_elsewhere(asking, alone, table):
    check_same(asking.invoke(table), alone)


def test_arrays_and_lists_get_them_too(asking, alone):
    check_same(asking.invoke(TEXTS), alone)
    check_same(asking.invoke(np.array(TEXTS)), alone)
    check_same(asking.invoke(np.array(TEXTS).reshape(-1, 1)), alone)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"image": text} for text in TEXTS]},
        {"instances": TEXTS},
        {"instances": [{"image": text} for text in TEXTS]},
        {"inputs": {"image": TEXTS}},
        {"inputs": TEXTS},
    ],
    ids=["records", "instances", "named instances", "named inputs", "inputs"],
)
def test_every_form_that_mlflow_documents_is_taken(client, alone, body):
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert [one["probabilities"] for one in found] == [score.probabilities for score in alone]


def test_options_come_as_params(asking, client):
    options = {"evidence": "array", "embedding": True, "points": "all"}
    found = asking.invoke(pd.DataFrame({"image": TEXTS[:1]}), params=options)["predictions"][0]
    whole = post(client, FILES[0], "?evidence=array&embedding=true&points=all").json()
    assert found == {**whole, "probability": whole["findings"][0]["probability"]}


def test_the_client_is_told_of_refusals(asking):
    broken = base64.b64encode(truncated()).decode()
    with pytest.raises(Exception, match=r"error code 422.*Image 2 of 2.*TRUNCATED"):
        asking.invoke(pd.DataFrame({"image": [TEXTS[0], broken]}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"instances": TEXTS, "inputs": TEXTS},
        {"instances": "text"},
        {"instances": [1]},
        {"instances": ["not base64!"]},
        {"instances": [[TEXTS[0], TEXTS[1]]]},
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": ["image"], "data": [[1, 2]]}},
        {"dataframe_split": {"columns": "image", "data": []}},
        {"dataframe_split": []},
        {"dataframe_records": [{"a": 1, "b": 2}]},
        {"instances": TEXTS[:1], "params": {"heat": True}},
        {"instances": TEXTS[:1], "params": {"evidence": "svg"}},
        {"instances": TEXTS[:1], "params": []},
    ],
)
def test_wrong_requests_are_refused(client, body):
    check_problem(client.post("/invocations", json=body), 422, "INVALID_REQUEST")


def test_tables_of_no_row_or_other_media_are_refused(client):
    check_problem(client.post("/invocations", json={"instances": []}), 400, "EMPTY_BODY")
    check_problem(client.post("/invocations", json={"instances": [""]}), 400, "EMPTY_BODY")
    check_problem(
        client.post("/invocations", json={"instances": ["a"] * 65}), 413, "TOO_MANY_IMAGES"
    )
    for headers in ({"Content-Type": "text/csv"}, {"Content-Encoding": "gzip"}):
        answer = client.post("/invocations", content=b"image\nabc", headers=headers)
        check_problem(answer, 415, "WRONG_MEDIA")
    check_problem(client.post("/invocations", content=b"image"), 422, "INVALID_REQUEST")


FORMS = st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "params"])
SPLIT = st.fixed_dictionaries({"columns": st.lists(JSON, max_size=3) | JSON, "data": JSON})


@given(st.dictionaries(FORMS, JSON | SPLIT, min_size=1, max_size=2))
def test_no_table_escapes_as_another_error(tree):
    try:
        images, _ = order_of(tree, 4)
        assert images
    except Refusal as refusal:
        code = refusal.code
        assert code in ("INVALID_REQUEST", "EMPTY_BODY", "TOO_MANY_IMAGES")
