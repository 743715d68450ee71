"""The resizing library gives the pixels that the arithmetic in numpy defines; without it numpy gives them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imaging import kernels
from pipeline.imaging.resize import resample

library = pytest.importorskip("cykooz_resizer", reason="needs the wheel of cykooz.resizer")


@st.composite
def jobs(draw):
    """A picture, a target, a box and a kernel."""
    rows, columns = draw(st.integers(1, 120)), draw(st.integers(1, 120))
    shape = (rows, columns, 3) if draw(st.booleans()) else (rows, columns)
    levels = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, shape)
    if draw(st.booleans()):
        levels = (levels > 128) * 255  # overshoot is clipped
    left, right = sorted(draw(st.tuples(*[st.floats(0, columns)] * 2)))
    top, bottom = sorted(draw(st.tuples(*[st.floats(0, rows)] * 2)))
    box = (left, top, right, bottom)
    if right - left < 0.01 or bottom - top < 0.01:
        box = (0.0, 0.0, float(columns), float(rows))
    target = (draw(st.integers(1, 150)), draw(st.integers(1, 150)))
    return levels.astype(np.uint8), target, box, draw(st.sampled_from(["linear", "cubic"]))


@settings(deadline=None, max_examples=150)
@given(jobs())
def test_the_library_gives_what_the_arithmetic_defines(job):
    assert np.array_equal(kernels.convolved(*job), kernels.convolved_by_numpy(*job))


@pytest.mark.parametrize("name", [kind.name for kind in library.CpuExtensions])
def test_every_instruction_set_gives_the_same_pixels(name, monkeypatch):
    def resizer(real=library.Resizer):
        made = real()
        try:
            made.cpu_extensions = library.CpuExtensions[name]
        except ValueError:
            pytest.skip(f"this processor has no {name}")
        return made

    monkeypatch.setattr(library, "Resizer", resizer)
    levels = np.random.default_rng(0).integers(0, 256, (217, 333, 3)).astype(np.uint8)
    for picture in (levels, np.ascontiguousarray(levels[..., 0])):
        for target in ((100, 123), (320, 480)):
            job = (picture, target, (0.0, 0.0, 333.0, 217.0))
            for kernel in ("linear", "cubic"):
                assert np.array_equal(
                    kernels.convolved(*job, kernel), kernels.convolved_by_numpy(*job, kernel)
                )


def test_without_the_library_the_same_pixels_come_from_numpy(monkeypatch):
    levels = np.random.default_rng(1).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    with_it = resample(levels, (41, 33))
    monkeypatch.setattr(kernels, "cykooz_resizer", None)
    kernels.library_agrees.cache_clear()
    try:
        assert not kernels.library_agrees()
        assert np.array_equal(resample(levels, (41, 33)), with_it)
    finally:
        kernels.library_agrees.cache_clear()


def test_a_library_that_gives_other_pixels_is_not_used(monkeypatch):
    real = kernels._by_library
    monkeypatch.setattr(kernels, "_by_library", lambda *job: real(*job) ^ 1)
    kernels.library_agrees.cache_clear()
    try:
        assert not kernels.library_agrees()
    finally:
        kernels.library_agrees.cache_clear()


def test_a_part_is_resized_as_it_is_within_the_whole():
    levels = np.random.default_rng(2).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    box = (120.0, 61.0, 290.0, 200.0)
    assert np.array_equal(
        resample(levels, (50, 60), box), kernels.convolved(levels, (50, 60), box, "cubic")
    )


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("target", [(37, 91), (300, 7), (511, 513)])
def test_an_even_picture_stays_even(value, target):
    assert (resample(np.full((200, 190), value, np.uint8), target) == value).all()
