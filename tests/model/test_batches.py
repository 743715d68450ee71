"""Runs of one shape, and several callers' images in one run: the same answer whoever came along."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data_schemas.errors import UsageError
from pipeline.model.kinds import BASE, KINDS, Kind, batch_for, batch_of, identity_of, kind_of
from pipeline.model.runtime import Runtime
from services.inference.batches import Together
from tests.model import tiny_network as tiny


def same(one, other):
    for name in ("logits", "evidence", "embedding"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_batch_is_part_of_what_a_score_is_made_by(kind):
    name = identity_of(kind, "1.2.3", 8)
    assert (kind_of(name), batch_of(name)) == (kind, 8)
    assert batch_of(identity_of(kind, "1.2.3")) == 1


def test_the_rule_is_one_on_a_processor_and_several_on_a_gpu():
    assert [batch_for(kind) for kind in (BASE, Kind("openvino", "bf16"), Kind("cuda", "fp32"))] == [
        1,
        1,
        8,
    ]


def test_openvino_is_not_opened_for_several(binary_package):
    with pytest.raises(UsageError, match="one image at a time, not 4"):
        Runtime(binary_package, kind=Kind("openvino", "fp32"), batch=4)


def test_neighbours_and_their_number_change_no_bit(binary_package):
    images = tiny.images(11, seed=4)
    runtime = Runtime(binary_package, batch=4)
    assert runtime.identity.endswith(" batch 4")
    whole = runtime.run(images)
    assert whole.logits.shape[0] == whole.evidence.shape[0] == whole.embedding.shape[0] == 11
    for place in range(11):
        same(whole.rows(place, place + 1), runtime.run(images[place : place + 1]))
    alone = Runtime(binary_package).run(images)
    np.testing.assert_allclose(whole.logits, alone.logits, atol=1e-4)


class Gate:
    """A runtime that waits to be let through, and remembers what it was asked."""

    batch = 4
    identity = "gate"
    bias = np.zeros(2, np.float32)

    def __init__(self, runtime):
        self.runtime, self.sizes, self.open = runtime, [], threading.Event()

    def run(self, images):
        self.sizes.append(len(images))
        assert self.open.wait(30)
        if (images == 13).all(axis=(1, 2, 3)).any():
            raise UsageError("unlucky")
        return self.runtime.run(images)


def test_while_one_run_is_under_way_the_next_batch_gathers(binary_package):
    runtime = Runtime(binary_package, batch=4)
    images = tiny.images(9, seed=5)
    gate, ran = Gate(runtime), []
    together = Together(gate, 0.0, ran.append)
    with ThreadPoolExecutor(9) as callers:
        first = callers.submit(together.run, images[:1])
        while not gate.sizes:
            time.sleep(0.001)
        others = [callers.submit(together.run, images[k : k + 1]) for k in range(1, 9)]
        while sum(future.running() for future in others) < 8:
            time.sleep(0.001)
        time.sleep(0.2)  # all of them have joined a batch
        gate.open.set()
        answers = [future.result() for future in (first, *others)]
    assert gate.sizes == ran == [1, 4, 4]
    for image, answer in zip(images, answers, strict=True):
        same(answer, runtime.run(image[None]))


def test_a_batch_runs_once_it_is_full_or_its_time_is_over(binary_package):
    runtime = Runtime(binary_package, batch=4)
    images = tiny.images(4, seed=6)
    sizes = []
    patient = Together(runtime, 60.0, sizes.append)
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda k: patient.run(images[k : k + 1]), range(4)))
    assert sizes == [4]  # nobody waited for a minute
    sizes.clear()
    hasty = Together(runtime, 0.02, sizes.append)
    same(hasty.run(images[:1]), runtime.run(images[:1]))
    assert sizes == [1]


def test_an_image_at_fault_is_refused_alone(binary_package):
    images = tiny.images(3, seed=7)
    images[1] = 13
    gate = Gate(Runtime(binary_package, batch=4))
    gate.open.set()
    together = Together(gate, 0.3)
    with ThreadPoolExecutor(3) as callers:
        answers = [callers.submit(together.run, images[k : k + 1]) for k in range(3)]
        found = [future.exception() is None for future in answers]
    assert found == [True, False, True]
    same(answers[2].result(), gate.runtime.run(images[2:]))
