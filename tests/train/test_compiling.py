"""torch.compile: the same answers faster, or none of it and a remark."""

import copy

import pytest
import torch

from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.train import compiling, learning, networks, precision
from pipeline.train.task import prepare
from pipeline.train.world import World

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)


def built():
    torch.manual_seed(0)
    network = networks.build(NetworkPlan(backbone="convnet", dropout=0.3), 2, 16)
    precision.suit(network, CPU, "bf16")
    return network


def fails(kind):
    """A compiler that breaks down on the way forward, or on the way back."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_, logits):
            return logits.clone()

        @staticmethod
        def backward(*_):
            raise RuntimeError("no C++ compiler\nwith a long explanation")

    def compile_(network):
        def fast(images):
            if kind == "forward":
                raise RuntimeError("no C++ compiler\nwith a long explanation")
            logits, *rest = network(images)
            return Broken.apply(logits), *rest

        return fast

    return compile_


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_a_compiler_that_fails_is_left_out_and_nothing_has_moved(monkeypatch, kind):
    monkeypatch.setattr(torch, "compile", fails(kind))
    network, said = built(), []
    before, dice = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    found = compiling.compiled(network, IMAGES, World(), "bf16", said.append)
    assert found is network
    assert said == ["note: torch.compile fails here, training goes on without: no C++ compiler"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), dice)


def test_a_training_without_a_compiler_ends_in_the_same_weights(memory_set, monkeypatch):
    monkeypatch.setattr(torch, "compile", fails("backward"))
    said, ends = [], []
    for wanted in (False, True):
        plan = Plan(
            network=NetworkPlan(backbone="convnet", dropout=0.1),
            learning=Learning(epochs=1, batch=16, compile=wanted),
            threads=1,
        )
        task = prepare(memory_set(), plan)
        learned = learning.train_network(task, World(), lambda *_: None, None, said.append)
        ends.append(learned.network.state_dict())
    assert len(said) == 1
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["convnet", "efficientnet_lite0"])
def test_compiled_it_computes_the_same(monkeypatch, tmp_path, backbone):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    said = []
    torch.manual_seed(0)
    # no deeper: batch statistics of few cells would make much of the last bits
    network = networks.build(NetworkPlan(backbone=backbone, stride=8), 2, 32)
    precision.suit(network, CPU, "fp32")
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    fast = compiling.compiled(network, images, World(), "fp32", said.append)
    assert said == []
    assert fast is not network
    found = []
    kept = copy.deepcopy(network.state_dict())
    for one in (network, fast):
        network.load_state_dict(kept)
        network.zero_grad()
        logits = one(images)[0]
        logits.square().sum().backward()
        found.append((logits.detach(), network.head.weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
    assert any(tmp_path.iterdir())
