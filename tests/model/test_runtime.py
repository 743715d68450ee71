"""The runtime takes what prepare makes and nothing else; cores come from the container's quota."""

import numpy as np
import pytest

from data_schemas.errors import UsageError
from pipeline.model.cores import available_cores
from pipeline.model.kinds import Kind
from pipeline.model.runtime import Runtime
from tests.model import tiny_network as tiny


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 64, 64, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(binary_package, images):
    with pytest.raises(UsageError, match="this model takes uint8"):
        Runtime(binary_package).run(images)


def test_identity_and_shapes(binary_package):
    runtime = Runtime(binary_package, threads=2)
    assert runtime.identity.startswith("onnxruntime ")
    assert runtime.identity.endswith(" fp32")
    found = runtime.run(tiny.images(3))
    assert found.logits.shape == (3, 2)
    assert found.evidence.shape == (3, 2, 4, 4)
    assert found.embedding.shape == (3, 8)


def test_a_strided_view_is_the_same_image(binary_package):
    runtime = Runtime(binary_package)
    images = tiny.images(4)
    assert np.array_equal(runtime.run(images[::2]).logits, runtime.run(images[[0, 2]]).logits)


def test_threads_and_batches_do_not_change_the_answer(binary_package):
    images = tiny.images(8)
    together = Runtime(binary_package, threads=2).run(images).logits
    single = Runtime(binary_package)
    alone = np.concatenate([single.run(image[None]).logits for image in images])
    assert together == pytest.approx(alone, abs=1e-5)


def test_cuda_is_refused_where_there_is_none(binary_package):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(UsageError, match="no CUDA provider"):
        Runtime(binary_package, kind=Kind("cuda", "fp32"))


def test_quota_of_the_container_counts(tmp_path):
    nothing = tmp_path / "none"
    free = available_cores(nothing, nothing)
    assert free >= 1
    version_2 = tmp_path / "cpu.max"
    for text, wanted in (
        ("100000 100000", 1),
        ("max 100000", free),
        ("10000 100000", 1),
        ("x", free),
    ):
        version_2.write_text(text)
        assert available_cores(version_2, nothing) == wanted
    version_1 = tmp_path / "v1"
    version_1.mkdir()
    (version_1 / "cpu.cfs_period_us").write_text("100000")
    for text, wanted in (("-1", free), ("100000", 1)):
        (version_1 / "cpu.cfs_quota_us").write_text(text)
        assert available_cores(nothing, version_1) == wanted
