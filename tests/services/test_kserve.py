"""The Open Inference Protocol, asked by Triton's own client, which knows nothing of us."""

import base64
import json
import struct

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from data_schemas.score import Score
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from services.inference.kserve_tensors import order_of
from services.inference.problems import Refusal
from services.inference.tensors import split_body
from services.inference.trees import tree_of
from tests.model import tiny_network as tiny
from tests.services import drawn_files as drawn
from tests.services.conftest import CONTRACT, serving, wait_until_ready
from tests.services.test_scores import check_problem, post, score_of, truncated

FILES = [
    drawn.encoded(drawn.fundus(1, 320)),
    drawn.encoded(drawn.fundus(2, 300), "PNG"),
    drawn.dicom(drawn.fundus(3, 280)),
]
NAME = "small-fundus"


@pytest.fixture
def asking(served):
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


def files_input(files, *, binary=True, shape=None):
    tensor = triton.InferInput("files", shape or [len(files)], "BYTES")
    if binary:
        values = np.array(files, dtype=np.object_)
    else:
        values = np.array([base64.b64encode(one).decode() for one in files], dtype=np.object_)
    tensor.set_data_from_numpy(values.reshape(shape or [-1]), binary_data=binary)
    return tensor


def check_same(result, scores):
    for place, score in enumerate(scores):
        for label, classes in score.probabilities.items():
            found = result.as_numpy(f"probabilities.{label}")[place]
            assert found.tolist() == list(classes.values())
        assert result.as_numpy("probability")[place] == score.findings[0].probability
        assert tuple(result.as_numpy("logits")[place].tolist()) == score.logits


def test_the_client_finds_a_live_ready_server_and_its_model(asking, package):
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready(NAME)
    assert not asking.is_model_ready("another")
    assert not asking.is_model_ready(NAME, "7")
    assert asking.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    found = asking.get_model_metadata(NAME)
    assert found["name"] == package.card.name
    images = next(one for one in found["inputs"] if one["name"] == "images")
    assert images == {"name": "images", "datatype": "UINT8", "shape": [-1, 64, 64, 3]}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_answer", [True, False, None])
def test_files_get_the_scores_that_they_get_elsewhere(
    asking, client, package, binary, binary_answer
):
    alone = [score_of(post(client, data, "?evidence=array&embedding=true")) for data in FILES]
    names = [one["name"] for one in asking.get_model_metadata(NAME)["outputs"]]
    asked = [triton.InferRequestedOutput(name, binary_data=binary_answer) for name in names]
    result = asking.infer(
        NAME,
        [files_input(FILES, binary=binary)],
        outputs=None if binary_answer is None else asked,
        request_id="7",
    )
    assert result.get_response()["id"] == "7"
    check_same(result, alone)
    verdicts = [one if isinstance(one, str) else one.decode() for one in result.as_numpy("verdict")]
    assert verdicts == [score.verdict for score in alone]
    for place, score in enumerate(alone):
        assert tuple(result.as_numpy("embedding")[place].tolist()) == score.embedding
        assert tuple(result.as_numpy("region")[place].tolist()) == score.evidence[0].region
        grids = [[list(row) for row in one.values] for one in score.evidence]
        assert result.as_numpy("evidence")[place].tolist() == grids
        tree = json.loads(result.as_numpy("score")[place])
        plain = score.model_copy(update={"evidence": (), "embedding": ()})
        assert Score.from_tree(tree, where="tensor") == plain


@pytest.mark.parametrize("binary", [True, False])
def test_prepared_images_get_the_scores_of_their_files(asking, client, package, binary):
    alone = [score_of(post(client, data)) for data in FILES]
    arrays = np.stack([prepare(read(one, CONTRACT), CONTRACT).pixels for one in FILES])
    tensor = triton.InferInput("images", list(arrays.shape), "UINT8")
    tensor.set_data_from_numpy(arrays, binary_data=binary)
    result = asking.infer(NAME, [tensor])
    check_same(result, alone)
    for place, text in enumerate(result.as_numpy("score")):
        image = json.loads(text)["image"]
        assert image["prepared_sha256"] == alone[place].image.prepared_sha256
        assert image["format"] == "array"
        assert "quality" in image["warnings"][0]


def test_the_shape_n_1_is_taken_too(asking, client):
    for binary in (True, False):
        result = asking.infer(NAME, [files_input(FILES, binary=binary, shape=[3, 1])])
        assert result.as_numpy("probability").shape == (3,)


def test_the_client_understands_refusals(asking):
    with pytest.raises(InferenceServerException) as caught:
        asking.infer(NAME, [files_input([FILES[0], truncated()])])
    assert caught.value.status() == "422"
    assert caught.value.message().startswith("Image 2 of 2: ")
    with pytest.raises(InferenceServerException) as caught:
        asking.infer("another", [files_input(FILES)])
    assert caught.value.status() == "404"
    output = triton.InferRequestedOutput("heat")
    with pytest.raises(InferenceServerException, match="the model gives verdict"):
        asking.infer(NAME, [files_input(FILES)], outputs=[output])
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        asking.infer(NAME, [files_input(FILES)], request_compression_algorithm="gzip")


def test_what_could_not_be_judged_is_nan_or_null(tmp_path):
    from data_schemas.contract import Quality
    from tests.services.conftest import write_package

    contract = CONTRACT.model_copy(update={"quality": Quality(check=True, min_brightness=30)})
    package = write_package(tmp_path / "package", contract)
    dark = drawn.encoded((drawn.fundus(4, 320) // 12).astype(np.uint8), "PNG")
    with serving(package.folder, tmp_path / "log") as running:
        wait_until_ready(running)
        with triton.InferenceServerClient(running.url.removeprefix("http://")) as asking:
            for files in ([dark], [dark, FILES[0]]):
                for asked in (
                    None,
                    [triton.InferRequestedOutput("probability", binary_data=False)],
                ):
                    result = asking.infer(NAME, [files_input(files)], outputs=asked)
                    assert np.isnan(result.as_numpy("probability")[0])
                    assert not np.isnan(result.as_numpy("probability")[1:]).any()
            assert result.get_output("probability")["data"][0] is None


def infer(client, body, **headers):
    return client.post(f"/v2/models/{NAME}/infer", content=body, headers=headers)


IMAGE = base64.b64encode(FILES[0]).decode()


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", None),
        (b"[" * 5000, None),
        (b'{"inputs": []}', None),
        (b'{"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "data": [1]}]}', None),
        (b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": [1]}]}', None),
        (
            b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [2], "data": ["aaaa"]}]}',
            None,
        ),
        (
            b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": ["?"]}]}',
            None,
        ),
        (
            b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 64, 64, 3], "data": [1]}]}',
            None,
        ),
        (b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1]}]}', None),
        (b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1]}]}', "66"),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "9" * 40),
        (b"1," * 2_000_001, None),
    ],
)
def test_wrong_requests_are_refused(client, body, header):
    headers = {} if header is None else {"Inference-Header-Content-Length": header}
    problem = check_problem(infer(client, body, **headers), 422, "INVALID_REQUEST")
    assert problem.error == problem.detail


def test_an_empty_request_and_an_unknown_model_are_refused(client):
    check_problem(infer(client, b""), 400, "EMPTY_BODY")
    problem = check_problem(client.get("/v2/models/Muster/versions/Erika"), 404, "UNKNOWN_MODEL")
    assert "Muster" not in problem.model_dump_json()
    answer = infer(
        client, b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": [""]}]}'
    )
    check_problem(answer, 400, "EMPTY_BODY")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
INPUTS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["images", "files"]),
        "datatype": st.sampled_from(["UINT8", "BYTES"]),
        "shape": st.sampled_from([[1, 2, 2, 3], [1], [2, 1], [0], [], [-1], [1] * 9]) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 30) | JSON}),
    },
    optional={"data": st.lists(st.integers(-1, 300), max_size=14) | JSON},
)
REQUESTS = st.fixed_dictionaries({"inputs": st.lists(INPUTS, max_size=2) | JSON, "outputs": JSON})


@given(REQUESTS, st.binary(max_size=30), st.booleans())
def test_no_request_escapes_as_another_error(tree, rest, named):
    text = json.dumps(tree).encode()
    card = tiny.card(contract=CONTRACT.model_copy(update={"size": 2}))
    try:
        head, binary = split_body(text + rest, str(len(text)) if named else None)
        order = order_of(tree_of(bytes(head)), binary, card, 4)
        assert order.images
    except Refusal as refusal:
        code = refusal.code
        assert code in ("INVALID_REQUEST", "EMPTY_BODY")


def test_elements_of_a_binary_tensor_must_fit_their_bytes(client):
    head = {"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1]}]}
    for rest in (b"\1", struct.pack("<I", 99) + b"abc", struct.pack("<I", 1) + b"ab"):
        head["inputs"][0]["parameters"] = {"binary_data_size": len(rest)}
        text = json.dumps(head).encode()
        answer = infer(client, text + rest, **{"Inference-Header-Content-Length": str(len(text))})
        check_problem(answer, 422, "INVALID_REQUEST")
