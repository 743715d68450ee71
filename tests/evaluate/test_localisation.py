"""The pointing game: a map that points scores, a shuffled one falls to chance."""

import numpy as np
import pytest

from data_schemas.errors import UsageError
from pipeline.evaluate.localisation import localise, permuted, pointing
from pipeline.model.agreement import on_verification
from pipeline.model.package import verification
from pipeline.model.runtime import Runtime


def _spots(count=40, seed=0):
    generator = np.random.default_rng(seed)
    images = np.full((count, 32, 32, 3), 10, np.uint8)
    masks = np.zeros((count, 32, 32), bool)
    positive = np.arange(count) % 2
    for index in np.flatnonzero(positive):
        top, left = generator.integers(0, 24, 2)
        images[index, top : top + 8, left : left + 8] = 250
        masks[index, top : top + 8, left : left + 8] = True
    return images, positive, masks


def test_centre_of_the_strongest_cell_and_a_disc_of_five_percent():
    grid = np.zeros((1, 10, 10), np.float32)
    grid[0, 2, 3] = 1.0  # its centre is pixel (25, 35) of 100
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 25, 40] = True
    assert pointing(grid, mask).tolist() == [True]  # 5 pixels away
    mask = np.roll(mask, 1, axis=2)
    assert pointing(grid, mask).tolist() == [False]  # 6
    mask[0, 29, 38] = True  # 3-4-5 triangle
    assert pointing(grid, mask).tolist() == [True]
    assert pointing(grid, np.zeros_like(mask)).tolist() == [False]


def test_the_model_points_and_permuted_weights_do_not(spot_package, tmp_path):
    images, positive, masks = _spots()
    shares = []
    for seed in range(6):
        shuffled = permuted(spot_package, seed, tmp_path / f"permuted{seed}")
        found = localise(spot_package, shuffled, images, positive, masks, label="referable")
        assert (found.found.value, found.found.denominator) == (1.0, 20)
        assert found.permuted.denominator == 20
        assert 0 < found.chance < 0.3
        shares.append(found.permuted.value)
    # so simple a network still sees some spots when shuffled, but not by its weights
    assert min(shares) <= 0.1
    assert np.mean(shares) < 0.8


def test_permuted_keeps_values_and_is_a_sound_package(spot_package, tmp_path):
    import onnx

    one = permuted(spot_package, 0, tmp_path / "one")
    same = permuted(spot_package, 0, tmp_path / "same")
    other = permuted(spot_package, 1, tmp_path / "other")
    assert one.sha256 == same.sha256
    assert one.sha256 != other.sha256
    assert "permuted" in one.card.notes[-1]
    assert on_verification(one, Runtime(one)).logit <= 1e-4
    for old, new in zip(
        onnx.load_from_string(spot_package.read("model.onnx")).graph.initializer,
        onnx.load_from_string(one.read("model.onnx")).graph.initializer,
        strict=True,
    ):
        before, after = map(onnx.numpy_helper.to_array, (old, new))
        assert np.array_equal(np.sort(before.ravel()), np.sort(after.ravel()))
    images = verification(one).images
    assert not np.allclose(
        Runtime(one).run(images).logits, Runtime(spot_package).run(images).logits
    )


def test_nothing_found_is_undefined_not_a_crash(spot_package, tmp_path):
    images, positive, masks = _spots(4)
    shuffled = permuted(spot_package, 3, tmp_path / "permuted")
    found = localise(spot_package, shuffled, images, 0 * positive, masks, label="referable")
    assert (found.found.value, found.found.denominator, found.chance) == (None, 0, None)


def test_arrays_that_do_not_belong_together_are_refused(spot_package):
    images, positive, masks = _spots(4)
    with pytest.raises(UsageError, match="don't belong together"):
        localise(spot_package, spot_package, images, positive, masks[:, ::2], label="referable")
