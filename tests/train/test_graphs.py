"""What the exported graph does besides the network: it enlarges, and its layout changes nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from data_schemas.errors import TrainingError
from data_schemas.plan import NetworkPlan
from pipeline.model.export import TOLERANCE, to_onnx
from pipeline.model.graph import OUTPUTS
from pipeline.model.session import open_session
from pipeline.train import ensemble, networks, precision
from pipeline.train.world import World

CPU = torch.device("cpu")


def drawn(n, size, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, size, size, channels), dtype=torch.uint8, generator=generator)


def settled(network, size, channels=3):
    """A network with strong weights and statistics of its own, ready to answer."""
    for module in network.modules():
        if isinstance(module, networks.EvidenceNetwork):
            nn.init.normal_(module.head.weight, std=0.05)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(drawn(8, size, channels, seed=5))
    return network.eval()


def check_graph(network, images):
    """ONNX Runtime answers what torch answers, and the evidence's mean is the logit less a constant."""
    free = ({0: torch.export.Dim("N", min=1)},)
    session = open_session(to_onnx(network, images[:2], ("images",), OUTPUTS, free))
    with torch.no_grad():
        expected = [value.numpy() for value in network(images)]
    found = session.run(OUTPUTS, {"images": images.numpy()})
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= TOLERANCE * max(1.0, np.abs(one).max())
    rest = expected[0] - expected[1].mean((2, 3))
    assert np.abs(rest - rest[0]).max() <= TOLERANCE
    assert np.ptp(expected[0], axis=0).min() > 0.01  # the images are told apart
    return found


@pytest.mark.parametrize(("stored", "size", "channels"), [(28, 64, 3), (28, 70, 1), (20, 50, 3)])
def test_the_graph_enlarges_stored_images(stored, size, channels):
    torch.manual_seed(0)
    plan = NetworkPlan(backbone="convnet", size=size, stride=8)
    network = settled(networks.build(plan, 3, stored), stored, channels)
    evidence = check_graph(network, drawn(3, stored, channels))[1]
    assert evidence.shape[-1] == size // 8
    assert network.stride(stored) == round(stored / (size // 8))


def test_enlarging_inside_is_enlarging_before():
    torch.manual_seed(0)
    inside = settled(networks.build(NetworkPlan(backbone="convnet", size=56), 2, 28), 28)
    before = copy.deepcopy(inside)
    before.size = 0
    images = drawn(2, 28)
    large = nn.functional.interpolate(images.permute(0, 3, 1, 2).float(), (56, 56), mode="bicubic")
    with torch.no_grad():
        for one, other in zip(inside(images), before(large.permute(0, 2, 3, 1)), strict=True):
            torch.testing.assert_close(one, other)


def test_a_graph_does_not_shrink():
    with pytest.raises(TrainingError, match="stored at 32 px") as refused:
        networks.build(NetworkPlan(backbone="convnet", size=28), 1, 32)
    assert refused.value.where == "network.size"
    assert networks.build(NetworkPlan(backbone="convnet", size=32), 1, 32).size == 0


def test_the_layout_for_bf16_changes_neither_names_nor_answers():
    torch.manual_seed(0)
    plain = settled(networks.build(NetworkPlan(backbone="efficientnet_lite0"), 2, 64), 64)
    suited = copy.deepcopy(plain)
    precision.suit(suited, CPU, "bf16")
    assert list(suited.state_dict()) == list(plain.state_dict())
    images = drawn(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(suited(images)[0], plain(images)[0], rtol=1e-3, atol=1e-3)
    check_graph(copy.deepcopy(suited), images)


def dtypes_seen(network):
    """name -> (convolution, dtype of what it returned), filled by the next forward passes."""
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda module, _, found, name=name: seen.update({name: (module, found.dtype)})
            )
    return seen


def test_depthwise_convolutions_stay_in_float32_also_in_a_copy():
    """The moving average and the best weights are copies: theirs must compute alike."""
    torch.manual_seed(0)
    network = networks.build(NetworkPlan(backbone="efficientnet_lite0"), 1, 64)
    precision.suit(network, CPU, "bf16")
    for own in (network, copy.deepcopy(network)):
        seen = dtypes_seen(own)
        with torch.no_grad(), World().autocast("bf16"):
            logits = own.eval()(drawn(1, 64))[0]
        assert logits.dtype == torch.float32  # the head never computes in bf16
        for name, (module, dtype) in seen.items():
            plain = module.groups > 1 or name == "head"
            assert dtype == (torch.float32 if plain else torch.bfloat16), name
        assert sum(module.groups > 1 for module, _ in seen.values()) > 10
        # it is the copy's own weight that is used
        before = own(drawn(1, 64))[0]
        with torch.no_grad():
            for module, _ in seen.values():
                if module.groups > 1:
                    module.weight.mul_(1.5)
        assert not torch.equal(before, own(drawn(1, 64))[0])


def members_of(count, size=32, **plan):
    torch.manual_seed(0)
    built = [networks.build(NetworkPlan(backbone="convnet", **plan), 3, size) for _ in range(count)]
    return [settled(one, size) for one in built]


@pytest.mark.parametrize(("views", "count"), [("mirror", 1), ("flips", 2), ("one", 3)])
def test_several_networks_and_views_are_one_graph(views, count):
    members = members_of(count, stride=8)
    whole = ensemble.answering(members, views)
    images = drawn(3, 32)
    _, evidence, embedding = check_graph(whole, images)
    assert evidence.shape[1:] == (3, 4, 4)
    assert embedding.shape == (3, 128 * count)
    assert whole.stride(32) == 8
    turned = {"one": [[]], "mirror": [[], [2]], "flips": [[], [2], [1], [1, 2]]}[views]
    with torch.no_grad():
        each = torch.stack([one(images.flip(axes))[0] for one in members for axes in turned])
        torch.testing.assert_close(whole(images)[0], each.mean(0))
        # an image and its mirror image are the same to it, but for the map, which is mirrored
        if views != "one":
            found, mirrored = whole(images), whole(images.flip(2))
            torch.testing.assert_close(found[0], mirrored[0])
            torch.testing.assert_close(found[1], mirrored[1].flip(3))
            assert not torch.allclose(members[0](images)[0], members[0](images.flip(2))[0])


def test_views_of_enlarged_images_are_one_graph_too():
    whole = ensemble.answering(members_of(1, size=20, stride=8), "mirror")
    check_graph(whole, drawn(3, 20))
    (enlarging,) = members_of(1, size=28)
    enlarging.size = 50
    check_graph(ensemble.answering([enlarging], "flips"), drawn(3, 28))


def test_one_network_on_one_view_is_itself():
    (only,) = members_of(1)
    assert ensemble.answering([only], "one") is only


@pytest.mark.slow
@pytest.mark.parametrize("name", list(networks.BACKBONES))
def test_every_backbone_is_the_same_in_onnx_runtime(name):
    torch.manual_seed(0)
    plan = NetworkPlan(backbone=name, size=64, views="mirror")
    network = settled(networks.build(plan, 2, 48), 48)
    check_graph(ensemble.answering([network], "mirror"), drawn(2, 48))
