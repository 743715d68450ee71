"""What the pixel road hands on: an Instance (decoded, as stored) and a Prepared array (as a network sees it)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_schemas.score import QualityAnswer
from data_schemas.terms import Format, Laterality

VoiFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


@dataclass(frozen=True, slots=True)
class Lut:
    """A look-up table of PS3.3 C.11.1 or C.11.2: ``entries[value - first]``, clamped at both ends."""

    first: int
    entries: NDArray[np.float64]
    top: float
    """Highest output that the table's depth can express (2^bits - 1)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window of PS3.3 C.11.2, in units of the modality LUT's output."""

    centre: float
    width: float
    function: VoiFunction = "LINEAR"


@dataclass(frozen=True, slots=True)
class GreyFacts:
    """What turns stored grey values into 0..255: everything of the header that :mod:`grey` needs."""

    bits: int
    """Depth of the stored values; 0 for floating point."""
    signed: bool = False
    inverted: bool = False
    """MONOCHROME1: the lowest value is shown white."""
    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: Lut | None = None
    voi_lut: Lut | None = None
    window: Window | None = None
    padding: tuple[float, float] | None = None
    """Lowest and highest stored value that mean "no data here" (0028,0120 to 0028,0125)."""


class Stored:
    """Stored values: an array, or a colour JPEG that is decoded as large as it is asked for.

    A JPEG decodes at 1/2, 1/4 and 1/8 of its size for a fraction of the price (scaled inverse DCT),
    so the road decodes it no larger than the contract needs, and in full only for a reader's eyes.
    """

    __slots__ = ("_decode", "_kept")

    def __init__(
        self,
        pixels: NDArray[Any],
        divisor: int = 1,
        decode: Callable[[int], NDArray[Any]] | None = None,
    ) -> None:
        self._kept = {divisor: pixels}
        self._decode = decode

    @property
    def divisors(self) -> tuple[int, ...]:
        """By what the size can be divided without decoding in full."""
        return (1, 2, 4, 8) if self._decode is not None else (1,)

    def at(self, divisor: int) -> NDArray[Any]:
        """Return the values at ``1 / divisor`` of the size, sides rounded up; decodes them once."""
        if divisor not in self._kept:
            if self._decode is None or divisor not in self.divisors:
                raise ValueError(f"these values can't be decoded at 1/{divisor}")
            self._kept[divisor] = self._decode(divisor)
        return self._kept[divisor]


@dataclass(frozen=True, slots=True, repr=False)
class Instance:
    """One decoded frame or photograph, before any recipe of a contract.

    There is no ``repr``: the fields that end in ``_key`` are raw identifiers of the header, which
    only ingestion reads and nothing logs.
    """

    stored: Stored
    source_sha256: str
    format: Format
    modality: str
    laterality: Laterality
    rows: int
    columns: int
    grey: GreyFacts | None
    patient_key: str
    warnings: tuple[str, ...]
    aspect: float = 1.0
    """Height of one pixel divided by its width (0028,0034 or the pixel spacing)."""
    frame: int = 0
    """Index of the decoded frame."""
    view: str = ""
    """View Position (0018,5101) or the view code's meaning: CC, MLO, PA, AP, LL."""
    device: str = ""
    """Manufacturer and model; no serial number, no station."""
    instance_key: str = ""
    """SOP Instance UID, raw like ``patient_key``: for joining labels, never stored or logged."""
    site_key: str = ""
    """Institution Name, raw like ``patient_key``."""
    study_key: str = ""
    """Study Instance UID, raw like ``patient_key``."""
    outside: str = ""
    """Why the image is of a kind that the contract doesn't take; empty: it is taken."""

    @property
    def pixels(self) -> NDArray[Any]:
        """Stored values in full: grey [H, W] of any numeric dtype, or RGB uint8/uint16 [H, W, 3].

        Colour is already converted and the orientation applied.
        """
        return self.stored.at(1)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The array that a network sees, and what was done to get it."""

    pixels: NDArray[np.uint8]
    """[size, size, channels], C-contiguous."""
    region: tuple[int, int, int, int]
    """Top, left, height, width of the source rectangle that the array shows, in source pixels."""
    quality: QualityAnswer
    warnings: tuple[str, ...]
    outside: str = ""
    """Why there is no array, ``pixels`` being empty: see :mod:`pipeline.imaging.kinds`."""
