"""What the export writes agrees with torch, is the same every time, and refuses what it can't prove."""

import json

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch

from data_schemas.errors import PackageError
from pipeline.model.agreement import on_verification
from pipeline.model.export import export_package
from pipeline.model.package import open_package, verification
from pipeline.model.runtime import Runtime
from pipeline.model.sums import FILES, SUMS
from tests.model import tiny_network as tiny


def test_graph_equals_torch_for_any_batch(binary_package):
    network = tiny.EvidenceNetwork(2).eval()
    runtime = Runtime(binary_package)
    for count in (1, 3, 17):
        images = tiny.images(count, seed=count)
        with torch.no_grad():
            logits, evidence, embedding = network(torch.from_numpy(images))
        found = runtime.run(images)
        assert found.logits == pytest.approx(logits.numpy(), abs=1e-4)
        assert found.evidence == pytest.approx(evidence.numpy(), abs=1e-4)
        assert found.embedding == pytest.approx(embedding.numpy(), abs=1e-4)


def test_evidence_sums_to_the_logit_by_the_stored_bias(binary_package, grades_package):
    for package in (binary_package, grades_package):
        found = Runtime(package).run(tiny.images(5, seed=9))
        rebuilt = found.evidence.mean((2, 3)) + verification(package).bias
        assert rebuilt == pytest.approx(found.logits, abs=1e-4)


def test_card_and_verification_are_filled(binary_package):
    network = tiny.EvidenceNetwork(2)
    assert binary_package.card.parameters == sum(p.numel() for p in network.parameters())
    assert binary_package.card.onnx_max_logit_difference <= 1e-4
    stored = verification(binary_package)
    assert stored.images.shape == (6, 32, 32, 3)
    assert stored.bias == pytest.approx(network.head.bias.detach().numpy(), abs=1e-5)
    assert on_verification(binary_package, Runtime(binary_package)).logit <= 1e-4


def test_same_network_same_bytes_and_no_places_of_this_machine(binary_package, tmp_path):
    network = tiny.EvidenceNetwork(2)
    export_package(network, tiny.images(), tiny.card(), tiny.CONTRACT, tmp_path / "again")
    assert network.training  # left as it was found
    assert open_package(tmp_path / "again").sha256 == binary_package.sha256
    graph = binary_package.read("model.onnx")
    for word in (b"site-packages", b"tiny_network", b".py"):
        assert word not in graph


def test_graph_is_one_file_of_the_agreed_form(binary_package):
    assert {path.name for path in binary_package.folder.iterdir()} == {*FILES, SUMS}
    model = onnx.load_from_string(binary_package.read("model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.version for entry in model.opset_import} == {20}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_weights_are_the_network_s(binary_package):
    tensors = safetensors.numpy.load(binary_package.read("model.safetensors"))
    for name, value in tiny.EvidenceNetwork(2).state_dict().items():
        assert np.array_equal(tensors[name], value.numpy())


class _Unexplained(tiny.EvidenceNetwork):
    """Its logit has a second source that the evidence map doesn't show."""

    def forward(self, images):
        logits, evidence, embedding = super().forward(images)
        return logits + images.float().amax((1, 2, 3))[:, None] / 50, evidence, embedding


def test_evidence_that_is_not_the_reason_is_refused(tmp_path):
    with pytest.raises(PackageError, match="not what the logit is made of"):
        export_package(
            _Unexplained(2), tiny.images(), tiny.card(), tiny.CONTRACT, tmp_path / "package"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "images", "card", "word"),
    [
        (3, tiny.images(), tiny.card(), "names 2 columns"),
        (2, tiny.images(size=16), tiny.card(), "expected uint8"),
        (2, tiny.images(0), tiny.card(), "expected uint8"),
        (2, tiny.images(), tiny.card(contract_sha256="0" * 64), "was made for contract"),
        (2, tiny.images(), tiny.card(primary="maculopathy"), "not among the outputs"),
        (2, tiny.images(), tiny.card(points=()), "no operating point"),
        (2, tiny.images(), tiny.card(size=64), "64 px"),
        (
            2,
            tiny.images(),
            tiny.card(points=(tiny.point("referable", low=0.7, high=0.2),)),
            "lies above",
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, network, images, card, word):
    with pytest.raises(PackageError, match=word):
        export_package(
            tiny.EvidenceNetwork(network), images, card, tiny.CONTRACT, tmp_path / "package"
        )
    assert list(tmp_path.iterdir()) == []


def test_an_existing_package_is_not_written_over(binary_package):
    before = json.loads((binary_package.folder / "card.json").read_bytes())
    with pytest.raises(PackageError, match="already exists"):
        export_package(
            tiny.EvidenceNetwork(2, seed=8),
            tiny.images(),
            tiny.card(),
            tiny.CONTRACT,
            binary_package.folder,
        )
    assert json.loads((binary_package.folder / "card.json").read_bytes()) == before
