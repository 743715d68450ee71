"""Shrinks early, where the contract says ``shrink: scaled``: JPEG in its decoder, grey before its window."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract, Grey
from pipeline.imaging import quality
from pipeline.imaging.colour import display_levels
from pipeline.imaging.grey import grey_levels, is_linear, linear_levels
from pipeline.imaging.instance import GreyFacts, Instance
from pipeline.imaging.resize import Region, View, block_side

DIVISORS = (8, 4, 2, 1)
_ROWS_AT_ONCE = 64
"""Keeps the sums of a block of rows in the cache."""
_SUM_LIMIT = 1 << 16
_SINGLE_BITS, _INT_BITS = 24, 31


def largest_step(
    rows: int,
    columns: int,
    contract: Contract,
    *,
    aspect: float = 1.0,
    region: Region | None = None,
) -> float:
    """Return by what the source's sides may be divided and still not be smaller than needed.

    Before a region is known, one that must be found in the picture is taken to fill its shorter side.

    Parameters
    ----------
    aspect
        Height of one pixel divided by its width.
    """
    if contract.shrink == "exact":
        return 1.0
    needed = max(contract.size, quality.SIDE if contract.quality.check else 0)
    if region is not None:
        return max(1.0, min(region[2:]) / needed)
    if contract.region != "fundus_field" and contract.fit == "pad":
        # both axes are shrunk to the same square on the patient
        side = max(rows * aspect, float(columns))
        return max(1.0, min(side / aspect, side) / needed)
    return max(1.0, min(rows, columns) / needed)


def divisor(rows: int, columns: int, contract: Contract, aspect: float = 1.0) -> int:
    """Return the largest of 8, 4, 2, 1 by which a JPEG of this size may be decoded smaller."""
    if contract.region in ("collimation", "breast"):  # looked for in the source's own pixels
        return 1
    most = largest_step(rows, columns, contract, aspect=aspect)
    return next(number for number in DIVISORS if number <= most)


def view(instance: Instance, contract: Contract, region: Region | None = None) -> View:
    """Return the instance as uint8 grey levels or RGB, no larger than the contract needs.

    Raises
    ------
    ImageError
        BLANK if the recipe is a range and all values are equal.
    """
    rows, columns = instance.rows, instance.columns
    most = largest_step(rows, columns, contract, aspect=instance.aspect, region=region)
    if instance.grey is None:
        step = max(number for number in instance.stored.divisors if number <= most)
        return View(display_levels(instance, contract.grey, step), step, rows, columns)
    step = block_side(most)
    if step == 1 or not is_linear(instance.pixels, instance.grey, contract.grey):
        return View(grey_levels(instance.pixels, instance.grey, contract.grey), 1, rows, columns)
    return View(
        _shrunk_grey(instance.pixels, step, instance.grey, contract.grey), step, rows, columns
    )


def closer(seen: View, instance: Instance, contract: Contract, region: Region) -> View:
    """Return a larger view if ``region`` in this one has fewer pixels than the contract needs."""
    most = largest_step(seen.rows, seen.columns, contract, region=region)
    return seen if seen.step <= most else view(instance, contract, region)


def _shrunk_grey(
    pixels: NDArray[np.integer], step: int, facts: GreyFacts, recipe: Grey
) -> NDArray[np.uint8]:
    means, limits = block_means(pixels, step, facts.bits)
    return linear_levels(means, limits, facts, recipe)


def block_means(
    pixels: NDArray[np.integer], step: int, bits: int
) -> tuple[NDArray[np.floating], tuple[int, int]]:
    """Return the mean of each ``step`` x ``step`` block, sides rounded up, and the range of all values.

    Sums are exact integers; a block at the end of a row or column has what is left there. Means are
    float32 where its 24 bits hold the sums, else float64.

    Parameters
    ----------
    bits
        Depth of the values, for the narrowest type that holds the sums.
    """
    rows, columns = pixels.shape
    whole, left = rows // step, columns % step
    single = bits + 2 * step.bit_length() <= _SINGLE_BITS
    out = np.empty((-(-rows // step), -(-columns // step)), np.float32 if single else np.float64)
    wide: type = np.int32 if bits + 2 * step.bit_length() < _INT_BITS else np.int64
    fits = pixels.dtype.kind == "u" and ((1 << bits) - 1) * step < _SUM_LIMIT
    narrow = np.uint16 if fits else wide
    at_once = max(1, _ROWS_AT_ONCE // step)
    low, high = int(pixels[0, 0]), int(pixels[0, 0])
    for first in range(0, whole, at_once):
        last = min(whole, first + at_once)
        part = pixels[first * step : last * step]
        low, high = min(low, int(part.min())), max(high, int(part.max()))
        block = part.reshape(last - first, step, columns)
        sums = np.add(block[:, 0], block[:, 1], dtype=narrow)
        for row in range(2, step):
            np.add(sums, block[:, row], out=sums)
        _across(sums, step, wide, out[first:last], step * step)
    if whole < len(out):
        rest = pixels[whole * step :]
        low, high = min(low, int(rest.min())), max(high, int(rest.max()))
        sums = rest.sum(axis=0, dtype=wide)[None]
        _across(sums, step, wide, out[whole:], (rows - whole * step) * step)
    if left:
        out[:, -1] *= step / left
    return out, (low, high)


def _across(
    sums: NDArray[np.integer], step: int, wide: type, out: NDArray[np.floating], count: int
) -> None:
    # adds every ``step`` neighbours of a row; the last ones may be fewer
    columns = sums.shape[1]
    full = columns // step * step
    total = np.add(sums[:, 0:full:step], sums[:, 1:full:step], dtype=wide)
    for column in range(2, step):
        np.add(total, sums[:, column:full:step], out=total)
    np.multiply(total, out.dtype.type(1.0 / count), out=out[:, : full // step], casting="unsafe")
    if full < columns:
        out[:, -1] = sums[:, full:].sum(axis=1, dtype=wide) * (1.0 / count)
