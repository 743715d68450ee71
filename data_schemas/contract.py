"""The Contract: what bytes are accepted and how they become the array that a network sees.

The one recipe of the pixel road, as data. Its digest travels in the data set, the package and
every score. ``pipeline.imaging`` carries it out; nothing else turns bytes into pixels.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from data_schemas.document import Document, Part
from data_schemas.terms import Format

FramesRule = Literal["refuse", "first", "middle", "every"]


class Accept(Part):
    """Which instances this contract takes; anything else is refused with a code."""

    formats: tuple[Format, ...] = ("dicom", "jpeg", "png", "tiff", "jpeg2000", "webp")
    modalities: tuple[str, ...] = Field(
        default=(), description="DICOM Modality (0008,0060) values; empty: any"
    )
    frames: FramesRule = Field(
        default="refuse",
        description="what to do with an instance of more than one frame; every: each is an image",
    )
    frames_by_class: dict[str, FramesRule] = Field(
        default={}, description="another rule for a SOP class, by its UID"
    )
    presentation: Literal["any", "for_presentation"] = Field(
        default="any",
        description="for_presentation: FOR PROCESSING (0008,0068) is refused (WRONG_PRESENTATION)",
    )
    views: tuple[str, ...] = Field(
        default=(), description="views such as CC, MLO, PA; empty: any; a view not given is taken"
    )
    colour: Literal["any", "required"] = Field(
        default="any", description="required: a grey instance is refused (NOT_COLOUR)"
    )


class Limits(Part):
    """What a header may claim before a byte is allocated for its pixels."""

    file_bytes: int = Field(default=256 * 2**20, gt=0)
    side_px: int = Field(default=16384, gt=0)
    pixels: int = Field(default=100_000_000, gt=0)


class Grey(Part):
    """How stored values of one-channel instances become 0..255, independent of a display.

    ``window``: ``header`` uses the first VOI window or LUT of the header (PS3.3 C.11.2),
    ``range`` the lowest and highest value without padding, ``percentile`` two percentiles of the
    values of the region, ``fixed`` the two numbers below.
    MONOCHROME1 is always inverted after this step, exactly once.
    """

    window: Literal["header", "range", "percentile", "fixed"] = "range"
    centre: float | None = None
    width: float | None = Field(default=None, gt=0)
    low: float = Field(default=0.5, ge=0, lt=50, description="percentile that becomes black")
    high: float = Field(default=99.5, gt=50, le=100, description="percentile that becomes white")

    @model_validator(mode="after")
    def _fixed_needs_numbers(self) -> "Grey":
        if self.window == "fixed" and (self.centre is None or self.width is None):
            raise ValueError("window: fixed needs centre and width")
        return self


class GateTerm(Part):
    """One measured feature's part in the odds that a photograph can be judged."""

    weight: float = Field(description="log-odds for one unit of the feature")
    typical: float = Field(description="the feature of a typical photograph, which adds nothing")


class Gate(Part):
    """A logistic gate: a photograph is refused where its log-odds of being gradable are below 0.

    A feature that is better than typical adds nothing, one that is worse takes its weight away.
    """

    bias: float = Field(description="log-odds of a typical photograph")
    terms: dict[str, GateTerm] = Field(
        description="feature of pipeline.imaging.quality -> its part"
    )


class Quality(Part):
    """When a fundus photograph is too poor to judge (measured inside the field of view)."""

    check: bool = False
    min_sharpness: float = Field(
        default=0.0, ge=0, description="fine over coarse detail, a ratio (blur takes fine first)"
    )
    min_brightness: float = Field(default=0.0, ge=0, le=255)
    max_brightness: float = Field(default=255.0, ge=0, le=255)
    min_colour: float = Field(
        default=-1.0, ge=-1, le=1, description="(red - green) / (red + green); a retina is red"
    )
    min_field: float = Field(
        default=0.0, ge=0, le=1, description="share of the field's circle that is visible"
    )
    gate: Gate | None = Field(
        default=None, description="learned by benchmarks/quality/run.py --fit; null: limits only"
    )


class Contract(Document):
    """The recipe from bytes to a uint8 array [size, size, channels]."""

    VERSION: ClassVar[int] = 1

    name: str
    description: str = ""
    accept: Accept = Accept()
    limits: Limits = Limits()
    grey: Grey = Grey()
    region: Literal["whole", "fundus_field", "collimation", "breast"] = Field(
        default="whole",
        description="fundus_field: crop to the field of view, black outside it; "
        "collimation: to the exposed part of a radiograph; breast: to the breast",
    )
    quality: Quality = Quality()
    fit: Literal["pad", "stretch"] = Field(
        default="pad", description="pad: keep the aspect and fill with black to a square"
    )
    shrink: Literal["scaled", "exact"] = Field(
        default="scaled",
        description="scaled: a colour JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 (never "
        "below the size needed), and integer grey values with no look-up table, no padding and a linear "
        "window are averaged in whole blocks before the window; exact: all pixels are decoded and "
        "windowed first",
    )
    size: int = Field(default=224, ge=8, le=4096, description="side of the array, pixels")
    channels: Literal[1, 3] = 3
