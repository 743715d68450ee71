"""An Instance to the array that a network sees. The road's second half; reads like the line in docs/architecture.md."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.score import QualityAnswer
from pipeline.imaging import quality, shrink
from pipeline.imaging.colour import display_levels, with_channels
from pipeline.imaging.field import black_outside, find_field
from pipeline.imaging.instance import Instance, Prepared
from pipeline.imaging.read import from_array
from pipeline.imaging.regions import focus
from pipeline.imaging.resize import Region, View, fit

_FEW = 32


def prepare(instance: Instance, contract: Contract) -> Prepared:
    """Turn a decoded instance into uint8 [size, size, channels] as the contract says.

    Poor quality doesn't raise: it is in the result.

    Raises
    ------
    ImageError
        BLANK if there is no content or no field of view; NOT_COLOUR if the contract requires
        colour and red, green and blue are the same.
    """
    part = focus(instance, contract)
    instance, contract = part.instance, part.contract
    seen = shrink.view(instance, contract)
    require_content(seen, instance, contract)
    region, visible = _region(seen, instance, contract)
    if contract.region == "fundus_field":
        # what was found may be smaller than expected, and then needs more of the source's pixels
        seen = shrink.closer(seen, instance, contract, region)
    fitted = fit(seen, region, contract.size)
    answer = quality_of(seen, region, fitted, visible, contract)
    if contract.region == "fundus_field":
        fitted = black_outside(fitted)
    pixels = with_channels(fitted, contract.channels)
    return Prepared(pixels, part.in_source(region), answer, instance.warnings)


def came_prepared(pixels: NDArray[np.uint8]) -> tuple[Instance, Prepared]:
    """Return an array that somebody else prepared, uint8 [size, size, channels], as an instance of itself."""
    instance = replace(
        from_array(pixels[..., 0] if pixels.shape[2] == 1 else pixels),
        warnings=("prepared by the client: its file and its quality are not known here",),
    )
    whole = (0, 0, instance.rows, instance.columns)
    return instance, Prepared(pixels, whole, QualityAnswer(), ())


def require_content(seen: View, instance: Instance, contract: Contract) -> None:
    """Raise BLANK for one value all over, and NOT_COLOUR for grey stored as colour."""
    levels = seen.levels
    # a speck may vanish in the average: only the source itself can be blank
    if _even(levels) and (seen.step == 1 or _even(display_levels(instance, contract.grey))):
        raise ImageError("BLANK", "every pixel has the same value")
    if contract.accept.colour == "required":
        step = max(1, min(levels.shape[:2]) // 64)
        thin = levels[::step, ::step].astype(np.int16)
        if levels.ndim == 2 or int(np.ptp(thin, axis=2).max()) <= 2:
            raise ImageError("NOT_COLOUR", "red, green and blue are the same all over")


def _even(levels: NDArray[np.uint8]) -> bool:
    # a picture shows that it is none in a few of its pixels
    first = levels[:1, :1]
    few = levels[::_FEW, ::_FEW]
    return bool((few == first).all() and (levels == first).all())


def _region(seen: View, instance: Instance, contract: Contract) -> tuple[Region, float]:
    """Return :func:`region_of` in source pixels, whatever the view's step is."""
    if seen.step == 1:
        return region_of(seen.levels, instance.aspect, contract)
    if contract.region != "fundus_field":
        # no pixel is looked at: the source's shape without its pixels
        shape = np.broadcast_to(np.uint8(0), (seen.rows, seen.columns))
        return region_of(shape, instance.aspect, contract)
    (top, left, height, width), visible = region_of(seen.levels, instance.aspect, contract)
    step = seen.step
    return (top * step, left * step, height * step, width * step), visible


def region_of(levels: NDArray[np.uint8], aspect: float, contract: Contract) -> tuple[Region, float]:
    """Return the source rectangle to show, and the visible share of the field (1 for the whole).

    ``pad`` gives a rectangle that is square on the patient and may reach outside the source;
    ``stretch`` the source's own.
    """
    rows, columns = levels.shape[:2]
    if contract.region == "fundus_field":
        field = find_field(levels)
        side = max(1, round(2 * field.radius))
        top = round(field.row + 0.5 - side / 2)
        left = round(field.column + 0.5 - side / 2)
        return (top, left, side, side), field.visible
    if contract.fit == "stretch":
        return (0, 0, rows, columns), 1.0
    side_mm = max(rows * aspect, float(columns))
    height, width = max(rows, round(side_mm / aspect)), max(columns, round(side_mm))
    return ((rows - height) // 2, (columns - width) // 2, height, width), 1.0


def quality_of(
    seen: View, region: Region, fitted: NDArray[np.uint8], visible: float, contract: Contract
) -> QualityAnswer:
    """Measure and judge the region; sufficient without features if the contract asks for no check.

    It is measured at :data:`quality.SIDE`, on the fitted array itself if that has this size.
    """
    if not contract.quality.check:
        return QualityAnswer()
    measured = fitted if contract.size == quality.SIDE else fit(seen, region, quality.SIDE)
    return quality.judge(quality.measure(measured, visible), contract.quality)
