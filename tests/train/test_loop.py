"""The loop: stops before harm, keeps the best, averages, and goes the same way twice."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from data_schemas.errors import TrainingError
from data_schemas.plan import Learning
from pipeline.train.loop import Average, Training, build_optimiser, clip, fit
from pipeline.train.world import World


class Fixed:
    """The same few batches in every epoch."""

    def __init__(self, *batches):
        self.batches = batches
        self.steps = len(batches)

    def __call__(self, _epoch, after=0):
        return iter(self.batches[after:])


def squares(network, batch):
    inputs, wanted = batch
    return (network(inputs) - wanted).square().mean()


def line():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def data(steps=2):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps, 8, 2, generator=generator)
    return Fixed(*[(x, x.sum(1, keepdim=True)) for x in inputs])


def run(network, learning, validate, batches=None, heard=None):
    track = (lambda *words: heard.append(words)) if heard is not None else (lambda *_: None)
    batches = batches or data()
    training = Training(network, learning, batches.steps)
    return fit(training, batches, squares, validate, track, World())


def scripted(values, seen=None):
    """A validation that answers with the next value, and remembers the weights it saw."""
    left = iter(values)

    def validate(network):
        if seen is not None:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"tune/auc": next(left), "tune/loss": 1.0}

    return validate


def test_the_best_epoch_is_kept_as_it_was():
    network, seen = line(), []
    fitted = run(network, Learning(epochs=5), scripted([0.5, 0.9, 0.7, 0.8, 0.6], seen))
    assert (fitted.best_epoch, fitted.epochs, fitted.stopped_early) == (2, 5, False)
    for name, value in network.state_dict().items():
        assert torch.equal(value, seen[1][name])
        assert not torch.equal(value, seen[4][name])


def test_it_stops_when_patience_ends():
    fitted = run(line(), Learning(epochs=50, patience=3), scripted([0.5, 0.8, 0.7, 0.8, 0.8, 0.9]))
    assert (fitted.best_epoch, fitted.epochs, fitted.stopped_early) == (2, 5, True)


def test_the_last_epoch_is_kept_where_the_plan_says_so():
    network, seen = line(), []
    learning = Learning(epochs=5, keep="last", patience=1)
    fitted = run(network, learning, scripted([0.5, 0.9, 0.7, 0.8, 0.6], seen))
    assert (fitted.best_epoch, fitted.epochs, fitted.stopped_early) == (5, 5, False)
    assert fitted.best["tune/auc"] == 0.6
    for name, value in network.state_dict().items():
        assert torch.equal(value, seen[4][name])


def test_without_an_auc_the_loss_decides():
    losses = iter([3.0, 1.0, 2.0])
    fitted = run(
        line(), Learning(epochs=3), lambda _: {"tune/auc": math.nan, "tune/loss": next(losses)}
    )
    assert fitted.best_epoch == 2


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_value_that_is_not_finite_stops_before_a_weight_moves(poison):
    network = line()
    good = data(1).batches[0]
    bad = (good[0], good[1] * poison)
    snapshots = []

    def heard(*words):
        snapshots.append(network.weight.detach().clone())

    training = Training(network, Learning(epochs=1), 2)
    with pytest.raises(TrainingError, match="epoch 1, step 2") as stopped:
        fit(training, Fixed(good, bad), squares, scripted([1.0]), heard, World())
    assert "learning.rate" in stopped.value.mend
    assert torch.equal(network.weight, snapshots[-1])
    assert torch.isfinite(network.weight).all()


def test_gradients_are_clipped_and_their_norm_is_told():
    heard = []
    run(line(), Learning(epochs=1, gradient_norm=1e-9, rate=1e-3), scripted([0.5]), heard=heard)
    metrics = heard[-1][2]
    assert metrics["train/grad_norm"] > 0.01  # as it was before clipping
    assert heard[0][:2] == (1, 1)
    assert heard[0][2] is None


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_clipping_is_torch_s_own(scale):
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    for parameter in network.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    found = copy.deepcopy([parameter.grad for parameter in network.parameters()])
    norm = clip(network, 1.0)
    clipped = [parameter.grad for parameter in network.parameters()]
    for parameter, gradient in zip(network.parameters(), found, strict=True):
        parameter.grad = gradient
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(network.parameters(), 1.0)))
    for own, parameter in zip(clipped, network.parameters(), strict=True):
        torch.testing.assert_close(own, parameter.grad)


def test_the_average_takes_over_counters():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(network, 0.9)
    network(torch.randn(8, 2))
    average.update()
    assert average.network[1].num_batches_tracked == 1


def test_it_learns_and_goes_the_same_way_twice():
    ends = []
    for _ in range(2):
        network, heard = line(), []
        run(
            network,
            Learning(epochs=90, rate=0.1, weight_decay=0, patience=90),
            scripted([0.5] * 90),
            heard=heard,
        )
        losses = [words[2]["train/loss"] for words in heard if words[2]]
        assert losses[-1] < 0.05 * losses[0]
        ends.append(losses)
    assert ends[0] == ends[1]


def test_the_average_follows_its_formula():
    network = line()
    average = Average(network, 0.9)
    expected = network.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            network.weight += 0.1
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.network.weight, expected)
    assert not torch.equal(average.network.weight, network.weight)


def test_with_an_average_the_average_is_judged_and_kept():
    network, seen = line(), []
    run(network, Learning(epochs=2, average=0.99), scripted([0.5, 0.9], seen))
    assert torch.equal(network.weight, seen[1]["weight"])


def test_no_average_costs_nothing():
    assert Average(line(), 0.0).network is None


def test_the_rate_rises_then_falls():
    network = nn.Sequential()
    network.add_module("body", nn.Linear(2, 2))
    network.add_module("head", nn.Linear(2, 1))
    learning = Learning(rate=1.0, head_rate=3.0, warmup=0.2, weight_decay=0.1)
    optimiser, schedule = build_optimiser(network, learning, 50)
    rates = []
    for _ in range(50):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    body = [row[0] for row in rates]
    assert body[0] == pytest.approx(0.1)
    assert max(body) == pytest.approx(1.0)
    assert body.index(max(body)) in (9, 10)
    assert body[-1] < 0.02
    assert all(b <= a + 1e-12 for a, b in pairwise(body[10:]))
    assert rates[5][-1] == pytest.approx(3 * rates[5][0])
    decays = {group["weight_decay"] for group in optimiser.param_groups}
    assert decays == {0.0, 0.1}
