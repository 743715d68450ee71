"""Limits before allocation: each bomb costs the reading of a header, in memory and in time."""

import io
import resource
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from data_schemas.contract import Accept, Contract, Limits
from data_schemas.errors import ImageError
from pipeline.imaging.read import read

ANY = Contract(name="any", accept=Accept(frames="first"))


def refused(data: bytes, contract: Contract = ANY, megabytes: float = 2) -> str:
    """Return the code of the refusal; fail if it costs more memory (its time: make test-fuzz)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as caught:
            read(data, contract)
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()
    # decoders allocate outside of Python, too
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < megabytes + 32
    return caught.value.code


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "code", "megabytes"),
    [
        ("06c1b8984edd", "TOO_LARGE", 2),
        ("18b35e0db90d", "TOO_LARGE", 2),
        ("cd8c977ce5a7", "CORRUPT", 2),
        ("a10b5f0a9752", "TOO_LARGE", 140),
        ("d10ba4e25bf7", "TOO_LARGE", 2),
        ("0abc589dc835", "TOO_LARGE", 2),
        ("a8bcadf503fe", "TOO_LARGE", 2),
    ],
)
def test_shared_bombs(name, code, megabytes, shared_dicom):
    data = (shared_dicom / f"{name}.dcm").read_bytes()
    assert refused(data, megabytes=megabytes) == code


def test_a_png_of_30000_squared():
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    png = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )
    assert refused(png + zlib.compress(bytes(100_000)) * 5) == "TOO_LARGE"


def test_a_file_that_is_too_large_is_not_looked_at():
    small = ANY.model_copy(update={"limits": Limits(file_bytes=1000)})
    assert refused(bytes(1001), small) == "TOO_LARGE"


@pytest.mark.parametrize("form", ["WEBP", "JPEG2000", "TIFF", "JPEG"])
def test_photographs_that_claim_too_much(form):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((900, 1300, 3), np.uint8)).save(stream, form)
    small = ANY.model_copy(update={"limits": Limits(pixels=1_000_000)})
    assert refused(stream.getvalue(), small, megabytes=6) == "TOO_LARGE"


def test_a_lossless_webp_of_16383_squared():
    bits = (16383 - 1) | (16383 - 1) << 14
    body = b"\x2f" + bits.to_bytes(4, "little") + bytes(20)
    chunk = b"VP8L" + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
    data = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
    assert refused(data) == "TOO_LARGE"


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


META = bytes(128) + b"DICM" + element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")


def test_elements_without_end():
    many = b"".join(element(0x0009, n & 0xFFFF, b"LO", b"") for n in range(0x10, 0xFFFF))
    more = b"".join(element(0x000B, n & 0xFFFF, b"LO", b"") for n in range(0x10, 0xFFFF))
    assert refused(META + many + more, megabytes=120) == "TOO_LARGE"


def test_items_without_end():
    data = (
        META + b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 1_100_000
    )
    with pytest.raises(ImageError) as caught:
        read(data, ANY)
    assert caught.value.code == "TOO_LARGE"


def test_sequences_without_bottom():
    nested = (
        b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    ) * 10_000
    assert refused(META + nested) == "CORRUPT"


def test_a_value_longer_than_the_file():
    claim = b"\x08\x00\x60\x00UN\0\0" + (0xFFFFFFF0).to_bytes(4, "little") + b"CT"
    assert refused(META + claim) == "TRUNCATED"


@pytest.mark.parametrize("bits", [2, 7, 24, 128])
def test_bits_that_no_reader_should_guess(bits, dicom_bytes):
    data = dicom_bytes(np.zeros((4, 4), np.uint16), BitsAllocated=bits, BitsStored=bits)
    assert refused(data) == "CORRUPT"
