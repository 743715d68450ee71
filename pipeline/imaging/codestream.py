"""Looks at a compressed frame, and decodes it: by what the stream itself says, not by its label."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.errors import ImageError
from pipeline.imaging import jpeg

StreamKind = Literal["jpeg", "lossless jpeg", "jpeg-ls", "jpeg 2000", "jpeg xl"]

_J2K = b"\xff\x4f\xff\x51"
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_JXL = b"\xff\x0a"
_JXL_BOX = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
STARTS = (b"\xff\xd8\xff", _J2K, _JP2, _JXL_BOX)
"""First bytes of the streams that can be told apart from everything else."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What a codestream says about itself before it is decoded."""

    kind: StreamKind
    rows: int
    columns: int
    components: int | None
    """``None`` where only the decoder can tell (JPEG XL)."""
    precision: int
    colour_done: bool
    """The decoder gives RGB by itself; ``False``: components come as they were stored."""
    markers: jpeg.JpegMarkers | None = None


def look(data: bytes) -> Stream | None:
    """Return what the stream says about itself, or ``None`` if its first bytes are not known.

    Raises
    ------
    ImageError
        TRUNCATED or CORRUPT if the stream's own header can't be read.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((_J2K, _JP2)):
        return _jpeg2000(data)
    if data.startswith((_JXL_BOX, _JXL)):
        rows, columns = _jpegxl_size(_jpegxl_stream(data))
        return Stream("jpeg xl", rows, columns, None, 16, colour_done=True)
    return None


def scalable(stream: Stream, *, header_rgb: bool = False) -> bool:
    """Tell whether :func:`decode` can decode the stream smaller: a DCT JPEG of 8 bits and three colours.

    Not where the header has to say what the components mean: Pillow can't be told.
    """
    found = stream.markers
    return (
        stream.kind == "jpeg"
        and found is not None
        and found.sof in jpeg.HUFFMAN_DCT
        and stream.precision == 8
        and stream.components == 3
        and not (header_rgb and _unmarked(found))
    )


def decode(
    data: bytes, stream: Stream, *, header_rgb: bool = False, divisor: int = 1
) -> NDArray[Any]:
    """Decode one frame to [H, W] or [H, W, components].

    Parameters
    ----------
    header_rgb
        The header around the stream says RGB. It counts only for a JPEG with neither a JFIF nor
        an Adobe segment, where the stream itself doesn't say what its components are.
    divisor
        1, or 2, 4 or 8 of a :func:`scalable` stream: the sides are that much shorter, rounded up.

    Raises
    ------
    ImageError
        TRUNCATED if the stream has no end, NO_DECODER or CORRUPT if the decoder refuses it.
    """
    if stream.markers is not None and not stream.markers.complete:
        raise ImageError("TRUNCATED", "the JPEG stream ends before its pixels do")
    try:
        if divisor > 1:
            return _scaled(data, stream, divisor)
        return _decoded(data, stream, header_rgb=header_rgb)
    except imagecodecs.DelayedImportError as error:
        raise ImageError("NO_DECODER", f"no decoder for {stream.kind} is installed") from error
    except Exception as error:  # each codec raises its own kinds
        raise ImageError("CORRUPT", f"the {stream.kind} decoder refuses the stream") from error


def _decoded(data: bytes, stream: Stream, *, header_rgb: bool) -> NDArray[Any]:
    found = stream.markers
    if stream.kind == "jpeg 2000":
        # reads HTJ2K as well; htj2k_decode wraps around at saturation on lossy streams
        return imagecodecs.jpeg2k_decode(data)
    if stream.kind == "jpeg xl":
        return imagecodecs.jpegxl_decode(data)
    if stream.kind == "jpeg-ls":
        return imagecodecs.jpegls_decode(data)
    if stream.kind == "lossless jpeg":
        return _lossless(data, grey=stream.components == 1)
    if header_rgb and found is not None and _unmarked(found) and stream.components == 3:
        return imagecodecs.jpeg8_decode(data, colorspace="RGB", outcolorspace="RGB")
    return imagecodecs.jpeg8_decode(data)


def _scaled(data: bytes, stream: Stream, divisor: int) -> NDArray[Any]:
    # libjpeg's scaled inverse DCT, which imagecodecs doesn't offer. The decoder alone: Pillow's
    # reader of files would also parse what stands in the metadata
    size = (-(-stream.columns // divisor), -(-stream.rows // divisor))
    image = Image.frombytes("RGB", size, data, "jpeg", "RGB", "", divisor, 0)
    return np.asarray(image)


def _lossless(data: bytes, *, grey: bool) -> NDArray[Any]:
    # libjpeg-turbo takes 0.6 of liblj92's time, and reads more predictors; but of colours it
    # guesses what they mean
    first: Callable[[bytes], NDArray[Any]] = imagecodecs.jpeg8_decode
    second: Callable[[bytes], NDArray[Any]] = imagecodecs.ljpeg_decode
    if not grey:
        first, second = imagecodecs.ljpeg_decode, imagecodecs.jpeg_decode
    try:
        return first(data)
    except Exception:  # noqa: BLE001 - the other one decides what is to be said
        return second(data)


def _unmarked(found: jpeg.JpegMarkers) -> bool:
    return not found.jfif and found.adobe is None


def _jpeg(data: bytes) -> Stream:
    found = jpeg.markers(data)
    kind: StreamKind = "jpeg"
    if found.sof == jpeg.JPEG_LS:
        kind = "jpeg-ls"
    elif found.sof == jpeg.LOSSLESS:
        kind = "lossless jpeg"
    return Stream(
        kind,
        found.rows,
        found.columns,
        found.components,
        found.precision,
        colour_done=kind == "jpeg",
        markers=found,
    )


def _jpeg2000(data: bytes) -> Stream:
    # SIZ (T.800 A.5.1) stands first in the codestream; COD (A.6.1) says whether the multiple
    # component transform was used, which the decoder undoes
    start = data.find(_J2K, 0, 4096)
    if start < 0:
        raise ImageError("CORRUPT", "the JPEG 2000 box holds no codestream")
    siz = data[start + 4 : start + 43]
    if len(siz) < 39:
        raise ImageError("TRUNCATED", "the JPEG 2000 stream ends inside its header")
    right, low, left, top = struct.unpack(">4I", siz[4:20])
    components, depth = struct.unpack(">HB", siz[36:39])
    return Stream(
        "jpeg 2000",
        low - top,
        right - left,
        components,
        (depth & 0x7F) + 1,
        colour_done=_component_transform(data, start + 2),
    )


def _component_transform(data: bytes, at: int) -> bool:
    while at + 4 <= len(data):
        marker, length = struct.unpack(">HH", data[at : at + 4])
        if marker == 0xFF52:
            return data[at + 8 : at + 9] == b"\x01"
        if marker == 0xFF90 or length < 2:
            break
        at += 2 + length
    return False


def _jpegxl_stream(data: bytes) -> bytes:
    # the codestream inside the ISO BMFF boxes jxlc, or jxlp after its 4-byte counter
    if data.startswith(_JXL):
        return data
    at = 0
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name in (b"jxlc", b"jxlp"):
            body = at + (16 if length == 1 else 8) + (4 if name == b"jxlp" else 0)
            return data[body:]
        if length < 8:
            break
        at += length
    raise ImageError("CORRUPT", "the JPEG XL box holds no codestream")


def _jpegxl_size(data: bytes) -> tuple[int, int]:
    # SizeHeader of ISO/IEC 18181-1, least significant bit first
    if not data.startswith(_JXL):
        raise ImageError("CORRUPT", "the JPEG XL box holds no codestream")
    bits = int.from_bytes(data[2:18], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(*, small: bool) -> int:
        if small:
            return 8 * (take(5) + 1)
        return 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1) == 1
    rows = side(small=small)
    ratio = take(3)
    if ratio == 0:
        return rows, side(small=small)
    up, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * up // down
