"""Refuses what a header claims before a byte is allocated for its pixels."""

import zlib

from data_schemas.contract import Limits
from data_schemas.errors import ImageError

_INFLATED_SMALL = 64 * 2**20
_INFLATED_RATIO = 20


def check_file(size: int, limits: Limits) -> None:
    """Raise TOO_LARGE if the file has more bytes than the contract allows."""
    if size > limits.file_bytes:
        raise ImageError(
            "TOO_LARGE", f"the file has {size} bytes, the contract allows {limits.file_bytes}"
        )


def check_size(rows: int, columns: int, limits: Limits) -> None:
    """Check a claimed size in pixels.

    Raises
    ------
    ImageError
        CORRUPT if a side is not positive, TOO_LARGE beyond the contract's limits.
    """
    if rows < 1 or columns < 1:
        raise ImageError("CORRUPT", f"the header claims {rows} x {columns} pixels")
    if max(rows, columns) > limits.side_px or rows * columns > limits.pixels:
        raise ImageError(
            "TOO_LARGE",
            f"the header claims {rows} x {columns} pixels, the contract allows sides of "
            f"{limits.side_px} and {limits.pixels} pixels in all",
        )


def check_claim(claimed: int, limits: Limits) -> None:
    """Raise TOO_LARGE if uncompressed frames would take more bytes than any file that is taken has."""
    if claimed > limits.file_bytes:
        raise ImageError(
            "TOO_LARGE",
            f"the header claims {claimed} bytes of pixels, the contract allows {limits.file_bytes}",
        )


def same_size(header: tuple[int, int], stream: tuple[int, int]) -> None:
    """Raise CORRUPT unless a codestream's (rows, columns) are those of the header around it."""
    if header != stream:
        raise ImageError(
            "CORRUPT",
            f"the header says {header[0]} x {header[1]} pixels, "
            f"the compressed data {stream[0]} x {stream[1]}",
        )


def inflate(data: bytes, cap: int) -> bytes:
    """Inflate raw deflate ``data`` to at most ``cap`` bytes.

    Raises
    ------
    ImageError
        TOO_LARGE past the cap, TRUNCATED if the stream doesn't end, CORRUPT if it is no deflate.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, cap)
    except zlib.error as error:
        raise ImageError("CORRUPT", "the deflated data can't be inflated") from error
    if stream.unconsumed_tail:
        raise ImageError("TOO_LARGE", f"the deflated data inflate to more than {cap} bytes")
    if not stream.eof:
        raise ImageError("TRUNCATED", "the deflated data end before their end mark")
    return inflated


def inflated_cap(size: int, limits: Limits) -> int:
    """Return how many bytes a deflated file of ``size`` bytes may become: 20 times, or 64 MiB."""
    return min(limits.file_bytes, max(_INFLATED_SMALL, _INFLATED_RATIO * size))
