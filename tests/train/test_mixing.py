"""Blends of images and of what they should answer; batches that go through in parts."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.train import labels, learning
from pipeline.train import state as states
from pipeline.train.batches import Batch
from pipeline.train.loop import Training, fit
from pipeline.train.mixing import Mixing, small_epochs, smaller
from pipeline.train.task import prepare
from pipeline.train.world import World, open_world

CPU = torch.device("cpu")


def batch_of(n=6, size=8, count=2, seed=0, weight=1.0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, count, (n, 1), generator=generator)
    return Batch(images, targets, weight)


def only(parts):
    (part,) = parts
    return part


def test_without_mixing_a_batch_is_itself():
    batch = batch_of(weight=1.5)
    part = only(Mixing(Learning(), 0)(batch, 1, 0))
    assert part.images is batch.images
    assert (part.share, part.weight) == (1.0, 1.5)


def test_early_epochs_see_the_same_images_with_half_the_pixels():
    ramp = torch.arange(160, dtype=torch.float32)[None, :, None, None].expand(2, 160, 160, 3)
    batch = Batch(ramp.to(torch.uint8), torch.zeros(2, 1, dtype=torch.int64))
    mixing = Mixing(Learning(epochs=5, small_epochs=0.6), 0)
    early, late = only(mixing(batch, 3, 0)), only(mixing(batch, 4, 0))
    assert late.images is batch.images
    assert early.images.shape == (2, 128, 128, 3)  # 112 is no multiple of 32
    assert early.targets is batch.targets
    # what a pixel of the smaller image covers, it is the mean of
    expected = (torch.arange(128) + 0.5) * 160 / 128 - 0.5
    torch.testing.assert_close(early.images[0, 2:-2, 5, 1], expected[2:-2], atol=0.1, rtol=0)


def test_the_last_epoch_sees_whole_images_and_tiny_ones_stay_as_they_are():
    assert [small_epochs(share, 13) for share in (0.0, 0.6, 0.99)] == [0, 8, 12]
    assert small_epochs(0.6, 1) == 0
    tiny = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    assert smaller(tiny) is tiny


def test_mixup_blends_images_and_says_of_whom():
    batch = batch_of()
    part = only(Mixing(Learning(mixup=1.0), 3)(batch, 2, 5))
    assert 0 < part.share < 1
    partner = [
        next(k for k in range(6) if torch.allclose(rest, batch.images[k].float(), atol=0.05))
        for rest in (part.images - part.share * batch.images.float()) / (1 - part.share)
    ]
    assert sorted(partner) == list(range(6))
    assert torch.equal(part.others, batch.targets[partner])
    assert torch.equal(part.targets, batch.targets)


def test_cutmix_counts_the_pixels_that_it_pastes():
    shares = []
    for step in range(40):
        n = 5
        images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 16, 16, 3)
        part = only(
            Mixing(Learning(cutmix=1.0), 0)(Batch(images, torch.arange(n)[:, None]), 1, step)
        )
        assert part.images.dtype == torch.uint8
        for own, other, image in zip(part.targets, part.others, part.images, strict=True):
            if own != other:
                assert (image == own).float().mean().item() == pytest.approx(part.share)
                assert (image == other).float().mean().item() == pytest.approx(1 - part.share)
        assert torch.equal(images[:, 0, 0, 0], torch.arange(n, dtype=torch.uint8))  # as it was
        shares.append(part.share)
    assert min(shares) < 0.3
    assert max(shares) > 0.95


def test_with_both_each_has_its_turn():
    mixing = Mixing(Learning(mixup=0.4, cutmix=1.0), 0)
    kinds = [only(mixing(batch_of(), 1, step)).images.dtype for step in range(60)]
    assert 15 < sum(kind == torch.uint8 for kind in kinds) < 45


def test_draws_follow_from_seed_epoch_and_step_only():
    settings = Learning(mixup=0.4, cutmix=1.0)

    def drawn(seed, epoch, step, batch=None):
        return only(Mixing(settings, seed)(batch or batch_of(), epoch, step))

    mixing = Mixing(settings, 1)
    for _ in range(3):
        only(mixing(batch_of(), 1, 0))  # what was drawn before doesn't matter
    again, first = only(mixing(batch_of(), 3, 4)), drawn(1, 3, 4)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.others, again.others)
    assert len({drawn(*key).share for key in ((1, 3, 4), (2, 3, 4), (1, 4, 4), (1, 3, 5))}) == 4
    # another process, with another part of the batch of another size
    assert drawn(1, 3, 4, batch_of(n=5, seed=9)).share == first.share


@pytest.mark.parametrize("kind", ["binary", "classes", "ordinal"])
def test_the_loss_of_a_blend_is_that_of_blended_targets(memory_set, kind):
    made = memory_set(kinds={"g": 2 if kind == "binary" else 4})
    scale = made.info.labels[0].model_copy(update={"kind": kind})
    made = dataclasses.replace(made, info=made.info.model_copy(update={"labels": (scale,)}))
    head = labels.resolve_head(Plan(), made.info)
    assert head.kind == kind
    targets = np.arange(12)[:, None] % len(head.outputs[0].classes)
    given = labels.balance(head, targets[:9], "loss")
    objective = labels.Objective(head, given, 0.1, CPU)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, head.columns, generator=generator)
    own, other = torch.from_numpy(targets), torch.from_numpy(targets[::-1].copy())
    found = objective(logits, own, other, 0.3)
    assert found.item() == pytest.approx(
        0.3 * objective(logits, own).item() + 0.7 * objective(logits, other).item(), rel=1e-6
    )
    if kind == "binary":
        plain = labels.Objective(head, labels.balance(head, targets, "none"), 0.0, CPU)
        soft = 0.3 * own.float() + 0.7 * other.float()
        wanted = nn.functional.binary_cross_entropy_with_logits(logits, soft)
        assert plain(logits, own, other, 0.3).item() == pytest.approx(wanted.item(), rel=1e-6)
    # where one half's label is not known, the other half's counts alone
    unknown = own.clone()
    unknown[:6] = -1
    losses = torch.stack([objective(logits[k : k + 1], own[k : k + 1]) for k in range(12)])
    others = torch.stack([objective(logits[k : k + 1], other[k : k + 1]) for k in range(12)])
    expected = (0.3 * losses[6:].sum() + 0.7 * others.sum()) / (0.3 * 6 + 0.7 * 12)
    assert objective(logits, unknown, other, 0.3).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = torch.full_like(own, -1)
    assert objective(logits, nothing, nothing, 0.3).item() == 0


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(memory_set, count, mixup):
    head = labels.resolve_head(Plan(), memory_set(kinds={"g": 3}).info)
    batch = batch_of(n=7, count=3, weight=1.2)
    batch.targets[[0, 1, 5]] = -1  # the parts know of labels unevenly
    objective = labels.Objective(head, labels.balance(head, batch.targets.numpy(), "loss"), 0, CPU)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 3, 3))
    found = []
    for parts in (1, count):
        network.zero_grad()
        total = 0.0
        taken = list(Mixing(Learning(mixup=mixup, accumulate=parts), 0)(batch, 1, 1))
        assert len(taken) == min(parts, 7)
        assert sum(len(part.images) for part in taken) == 7
        for part in taken:
            logits = network(part.images.float() / 255)
            loss = objective(logits, part.targets, part.others, part.share) * part.weight
            loss.backward()
            total += loss.item()
        found.append((total, network[1].weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_the_loop_takes_one_step_for_all_parts_of_a_batch():
    class Twice:
        steps = 2

        def __call__(self, _epoch, after=0):
            return iter([4, 6][after:])

    ends = []
    for parts in (lambda batch, *_: (batch,), lambda batch, *_: [batch * 0.25, batch * 0.75]):
        torch.manual_seed(0)
        network, heard = nn.Linear(1, 1), []
        training = Training(network, Learning(epochs=2, average=0.5), 2, parts)
        fit(
            training,
            Twice(),
            lambda net, part: part * net(torch.ones(1, 1)).square().sum(),
            lambda _: {"tune/auc": 0.5, "tune/loss": 1.0},
            lambda *words, heard=heard: heard.append(words),
            World(),
        )
        ends.append((network.weight.item(), heard[-1][2]["train/loss"]))
        assert training.schedule.last_epoch == 4
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def digest(dataset, plan, state=None, track=lambda *_: None):
    world = open_world("cpu", 1, plan.seed)
    learned = learning.train_network(prepare(dataset, plan), world, track, state)
    values = learned.network.state_dict().values()
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def test_a_training_with_blends_goes_on_bit_for_bit(memory_set, broken_off):
    plan = Plan(
        network=NetworkPlan(backbone="convnet", dropout=0.1),
        learning=Learning(
            epochs=3, batch=8, mixup=0.3, cutmix=0.7, accumulate=2, average=0.9,
            balance="sampler", label_smoothing=0.05, checkpoint_minutes=1e-5,
        ),
        threads=1,
    )  # fmt: skip
    dataset = memory_set(kinds={"g": 3})
    begun = broken_off(dataset, plan, digest, (2, 3))
    with states.reopen(Path("states"), begun, dataset.info, lambda _: None) as state:
        assert state.checkpoints()[-1].name.startswith("epoch-00002-step-0000002")
        resumed = digest(dataset, plan, state)
    assert resumed == digest(dataset, plan)
    plain = plan.learning.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    assert resumed != digest(dataset, plan.model_copy(update={"learning": plain}))
