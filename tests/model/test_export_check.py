"""A package is compared with its network on real images and from bytes, or it isn't written."""

import numpy as np
import pytest
import torch

from data_schemas.contract import Accept
from data_schemas.errors import TrainingError
from pipeline.model import decision, export
from pipeline.model.export_check import RealImages, check_export
from pipeline.model.package import open_package
from tests.model import tiny_network as tiny

REAL = RealImages(tiny.images(20, seed=5), "tune")


def _ask(images, moved=0.0):
    network = tiny.EvidenceNetwork(2).eval()
    with torch.no_grad():
        return network(torch.from_numpy(images))[0].numpy() + np.float32(moved)


def _package(folder, **changes):
    card = tiny.card(**changes)
    network, drawn = tiny.EvidenceNetwork(2), tiny.images()
    export.export_package(network, drawn, card, tiny.CONTRACT, folder, REAL)
    return open_package(folder)


def test_the_card_says_how_the_package_was_checked(tmp_path):
    package = _package(tmp_path / "package")
    check = package.card.checks[0]
    assert (check.split, check.images, check.changed_verdicts) == ("tune", 20, 0)
    assert "onnxruntime" in check.precision
    assert "fp32" in check.precision
    assert 0 < check.max_logit_difference <= 1e-4
    assert check.max_probability_difference <= check.max_logit_difference
    # six drawn images and sixteen real ones, each as a file
    assert (check.from_bytes, check.refused_bytes) == (22, {})
    with np.load(package.folder / "verification.npz") as stored:
        for image in stored["images"]:
            assert not any(np.array_equal(image, real) for real in REAL.pixels)


def test_images_near_a_threshold_are_counted(tmp_path):
    probability = decision.positive_probability(tiny.card(), "referable", _ask(REAL.pixels))
    ordered = np.unique(probability)
    middle = float(ordered[len(ordered) // 2]) + 5e-5
    expected = int((np.abs(probability - middle) <= 1e-4).sum())
    package = _package(
        tmp_path / "package",
        points=(tiny.point("referable", middle, middle), tiny.point("exudates", 0.0, 1.0)),
    )
    assert package.card.checks[0].near_threshold == expected >= 1


@pytest.mark.parametrize(
    ("moved", "word"),
    [(0.01, r"differ by up to 0\.00\d+ \(allowed 0\.0001\)"), (2.0, r"[1-9]\d* verdicts change")],
)
def test_a_graph_that_answers_otherwise_is_refused(binary_package, moved, word):
    with pytest.raises(TrainingError, match=word):
        check_export(binary_package, tiny.CONTRACT, REAL, tiny.images(), lambda x: _ask(x, moved))


def test_one_changed_verdict_is_enough(tmp_path):
    """Two answers that differ by a hundred-thousandth, and the threshold lies between them."""
    probability = decision.positive_probability(tiny.card(), "referable", _ask(REAL.pixels))
    middle = float(np.sort(probability)[10])
    points = (
        tiny.point("referable", middle + 2e-6, middle + 2e-6),
        tiny.point("exudates", 0.0, 1.0),
    )
    package = _package(tmp_path / "package", points=points)
    with pytest.raises(TrainingError, match=r"[12] verdicts change"):
        check_export(package, tiny.CONTRACT, REAL, tiny.images(), lambda x: _ask(x, 4e-5))


def test_nothing_is_written_when_the_check_fails(tmp_path, monkeypatch):
    def failing(*_):
        raise TrainingError("the exported graph is not the trained network")

    monkeypatch.setattr(export, "check_export", failing)
    with pytest.raises(TrainingError, match="not the trained network"):
        _package(tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_another_pixel_road_is_found(binary_package):
    other = tiny.CONTRACT.model_copy(update={"size": 16})
    with pytest.raises(TrainingError, match="another array"):
        check_export(binary_package, other, REAL, tiny.images(), _ask)


def test_files_that_the_contract_refuses_are_refused_on_both_sides(tmp_path):
    contract = tiny.CONTRACT.model_copy(update={"accept": Accept(formats=("dicom",))})
    card = tiny.card(contract=contract)
    network = tiny.EvidenceNetwork(2)
    export.export_package(network, tiny.images(), card, contract, tmp_path / "package", REAL)
    check = open_package(tmp_path / "package").card.checks[0]
    assert check.from_bytes == 0
    assert sum(check.refused_bytes.values()) == 22
    with pytest.raises(TrainingError, match="for training and"):
        check_export(open_package(tmp_path / "package"), tiny.CONTRACT, REAL, tiny.images(), _ask)
