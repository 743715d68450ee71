"""Every network of the registry keeps the promise of the evidence map."""

import pytest
import torch

from data_schemas.errors import TrainingError
from data_schemas.plan import NetworkPlan
from pipeline.train.networks import BACKBONES, build, set_prior

SIZE = 64


@pytest.fixture(scope="module", params=list(BACKBONES))
def network(request):
    torch.manual_seed(0)
    built = build(NetworkPlan(backbone=request.param), 3, SIZE)
    torch.nn.init.normal_(built.head.weight, std=0.2)  # a strong head: the sums are of real numbers
    set_prior(built, torch.tensor([0.5, -1.0, 2.0]))
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # one pass then gives the statistics that a training would
    with torch.no_grad():
        built(torch.randint(0, 256, (8, SIZE, SIZE, 3), dtype=torch.uint8))
    return built.eval()


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)


def test_the_evidence_map_averages_to_the_logit(network, images):
    with torch.no_grad():
        logits, evidence, embedding = network(images)
    assert logits.shape == (2, 3)
    assert evidence.shape[:2] == (2, 3)
    assert embedding.shape == (2, network.head.in_channels)
    assert {t.dtype for t in (logits, evidence, embedding)} == {torch.float32}
    torch.testing.assert_close(logits, evidence.mean((2, 3)) + network.bias)
    # an ordinary linear head on pooled features, nothing more
    linear = embedding @ network.head.weight.flatten(1).T + network.bias
    torch.testing.assert_close(logits, linear, rtol=1e-4, atol=1e-4)
    assert logits[0].ne(logits[1]).all()


def test_every_weight_learns(network, images):
    network.train()
    try:
        network(images)[0].square().sum().backward()
        idle = [name for name, p in network.named_parameters() if p.grad is None]
        assert idle == []
    finally:
        network.zero_grad(set_to_none=True)
        network.eval()


def test_the_answer_about_an_image_does_not_depend_on_its_neighbours(network, images):
    with torch.no_grad():
        together = network(images)[0]
        alone = network(images[:1])[0]
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


def test_it_can_be_exported(network, images):
    exported = torch.export.export(network, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images)[0], network(images)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "convnet"])
def test_no_map_is_coarser_than_the_plan_allows(name, stride):
    built = build(NetworkPlan(backbone=name, stride=stride), 1, SIZE).eval()
    evidence = built(torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8))[1]
    assert evidence.shape[-1] >= SIZE // stride
    assert built.stride(SIZE) <= stride


def test_a_grey_image_is_read_as_three_equal_channels():
    built = build(NetworkPlan(backbone="convnet"), 1, 32).eval()
    grey = torch.randint(0, 256, (1, 32, 32, 1), dtype=torch.uint8)
    torch.testing.assert_close(built(grey)[0], built(grey.expand(-1, -1, -1, 3))[0])


def test_an_unknown_backbone_is_answered_with_the_known_ones():
    with pytest.raises(TrainingError, match="resnet19") as refused:
        build(NetworkPlan(backbone="resnet19"), 1, 32)
    assert "resnet18" in refused.value.mend


def test_dropout_is_off_in_an_answer():
    built = build(NetworkPlan(backbone="convnet", dropout=0.5), 1, 32).eval()
    images = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(built(images)[0], built(images)[0])
    built.train()
    assert built.drop.p == 0.5
