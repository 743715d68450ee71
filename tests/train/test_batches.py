"""Batches: every image once, with its own label, in an order that follows from the epoch."""

import threading

import numpy as np
import pytest

from pipeline.train.batches import Order, TrainingBatches, in_order
from pipeline.train.world import World


class Coded:
    """Images that carry their own row number in their pixels."""

    def pixels(self, indices):
        return np.tile(indices.astype(np.uint8)[:, None, None, None], (1, 4, 4, 3))


def unchanged(images, ids, epoch):
    return images


def batches(indices, batch=4, seed=0, chance=None, world=None, augment=unchanged):
    targets = np.stack([np.arange(200), np.arange(200) % 3], axis=1)
    order = Order(np.asarray(indices), seed, chance)
    return TrainingBatches(Coded(), targets, order, batch, augment, world or World())


def rows_of(epoch_batches):
    return [int(row) for batch in epoch_batches for row in batch.targets[:, 0]]


def test_each_image_comes_once_with_its_own_labels():
    made = batches(range(30, 61))
    seen = []
    for batch in made(1):
        assert batch.images.dtype.is_floating_point is False
        pixels = batch.images[:, 0, 0, 0].tolist()
        assert pixels == batch.targets[:, 0].tolist()
        assert [row % 3 for row in pixels] == batch.targets[:, 1].tolist()
        seen += pixels
    assert sorted(seen) == list(range(30, 61))


def test_the_order_follows_from_seed_and_epoch():
    made = batches(range(40))
    assert rows_of(made(1)) == rows_of(batches(range(40))(1))
    assert rows_of(made(1)) != rows_of(made(2))
    assert rows_of(made(1)) != rows_of(batches(range(40), seed=1)(1))


@pytest.mark.parametrize(("n", "batch"), [(1, 8), (9, 8), (33, 8), (8, 8), (100, 7)])
def test_no_batch_is_tiny(n, batch):
    sizes = [len(one.targets) for one in batches(range(n), batch=batch)(1)]
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    assert n == 1 or min(sizes) > 1


def test_sampling_draws_by_chance():
    chance = np.r_[np.full(10, 0.01), np.full(90, 0.01)]
    chance[:10] = 0.05
    made = batches(range(100), chance=chance / chance.sum())
    rows = [row for epoch in range(1, 31) for row in rows_of(made(epoch))]
    share = np.mean(np.array(rows) < 10)
    assert abs(share - 0.5 / 1.4) < 0.03


def test_an_image_drawn_again_in_an_epoch_is_changed_in_another_way():
    told = []

    def heard(images, ids, _epoch):
        told.extend(ids.tolist())
        return images

    chance = np.r_[np.full(2, 0.3), np.full(38, 0.4 / 38)]
    made = batches(range(40), chance=chance, augment=heard)
    rows = np.concatenate([batch.targets[:, 0].numpy() for batch in made(0)])
    ids = np.array(told)
    assert len(np.unique(ids)) == len(ids) == 40
    assert len(np.unique(rows)) < 30
    first = np.unique(rows, return_index=True)[1]
    assert (ids[first] < 40).all()  # the first time it is as it would be in any order
    # the same when an epoch goes on in its middle, and shared by two processes
    told.clear()
    list(made(0, after=5))
    assert told == ids[-len(told) :].tolist()


def test_processes_share_a_batch_without_overlap():
    parts = [rows_of(batches(range(32), batch=8, world=World(rank, 2))(3)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(32))


def test_a_fault_in_the_thread_reaches_the_loop():
    def broken(images, ids, epoch):
        raise ValueError("a broken image")

    with pytest.raises(ValueError, match="a broken image"):
        list(batches(range(8), augment=broken)(1))


def test_leaving_in_the_middle_ends_the_thread():
    epoch = batches(range(100), batch=2)(1)
    next(epoch)
    assert any(thread.name == "batches" for thread in threading.enumerate())
    epoch.close()
    assert not any(thread.name == "batches" for thread in threading.enumerate())


def test_in_order_is_in_order():
    images = [image for part in in_order(Coded(), np.arange(10), 4, World()) for image in part]
    assert [int(image[0, 0, 0]) for image in images] == list(range(10))
