"""Tensors of the Open Inference Protocol (KServe V2), as JSON and as its binary extension: read and written.

https://github.com/kserve/open-inference-protocol, and Triton's extension_binary_data.md: a request's
or answer's JSON comes first, its length in the header ``Inference-Header-Content-Length``, then the
tensors that name a ``binary_data_size``, one after the other, little-endian, rows first. An element
of BYTES is its length in four bytes and then itself.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from services.inference.problems import Refusal
from services.inference.trees import bytes_of

LENGTH_HEADER = "inference-header-content-length"
_NUMPY = {"UINT8": "u1", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}


MOST_AXES = 8


class _Said(BaseModel):
    # one fault is told, not millions of them; the protocol lets clients add parameters of their own
    model_config = ConfigDict(frozen=True, extra="ignore")


class InferInput(_Said):
    """A tensor of a request."""

    name: Literal["images", "files"]
    datatype: Literal["UINT8", "BYTES"]
    shape: Annotated[tuple[int, ...], FailFast()] = Field(max_length=MOST_AXES)
    parameters: dict[str, Any] = {}
    data: list[Any] | None = Field(
        default=None,
        description="numbers in row-major order, or files in base64; absent where the tensor comes "
        "in binary",
    )


class InferOutput(_Said):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(_Said):
    """A request for scores: `files` (BYTES), or `images` (UINT8) as this model's contract prepares them."""

    id: str = Field(default="", max_length=256)
    inputs: Annotated[tuple[InferInput, ...], FailFast()] = Field(min_length=1, max_length=1)
    outputs: Annotated[tuple[InferOutput, ...], FailFast()] = Field(default=(), max_length=256)
    parameters: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of an answer."""

    name: str
    datatype: str
    values: NDArray[Any] | Sequence[bytes]
    """An array, or the elements of a BYTES tensor [N]."""


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON of a body and the binary tensors behind it.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST`` if the header that tells their border is wrong.
    """
    if header is None:
        return body, memoryview(b"")
    length = int(header) if header.isascii() and header.isdigit() and len(header) < 12 else -1
    if not 0 < length <= len(body):
        raise _wrong("Inference-Header-Content-Length doesn't fit the body.")
    return body[:length], memoryview(body)[length:]


def infer_request(tree: dict[str, Any]) -> InferRequest:
    """Return the request that a tree holds.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST``, naming each field that is wrong, but no value.
    """
    try:
        return InferRequest.model_validate(tree)
    except ValidationError as error:
        raise _wrong(faults_of(error)) from None


def faults_of(error: ValidationError) -> str:
    """Return which fields are wrong, without their values or names of the client's own."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
        for fault in error.errors(include_input=False, include_url=False, include_context=False)
        if fault["type"] != "extra_forbidden"
    ]
    return "; ".join(faults) or "There is a parameter that this address doesn't know."


def pixels_of(tensor: InferInput, binary: memoryview, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the pixels of an input ``images``: uint8 [N, size, size, channels].

    ``shape`` is that of one image.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST`` if datatype, shape or values are others.
    """
    if tensor.datatype != "UINT8" or tensor.shape[1:] != shape or tensor.shape[0] < 1:
        raise _wrong(f"inputs.0: expected UINT8 of shape [N, {', '.join(map(str, shape))}].")
    length = prod(tensor.shape)
    if tensor.data is None:
        values = np.frombuffer(_binary(tensor, binary), np.uint8)
    else:
        values = _from_json(tensor.data)
    if values.size != length:
        raise _wrong(f"inputs.0: {values.size} values came, its shape needs {length}.")
    return values.reshape(tensor.shape)


def files_of(tensor: InferInput, binary: memoryview, most: int) -> list[bytes]:
    """Return the files of an input ``files``.

    Raises
    ------
    Refusal
        ``INVALID_REQUEST`` or ``EMPTY_BODY``.
    """
    count = prod(tensor.shape) if tensor.shape and min(tensor.shape) > 0 else 0
    if tensor.datatype != "BYTES" or not 1 <= count <= most:
        raise _wrong(f"inputs.0: expected BYTES of shape [N], N up to {most}.")
    if tensor.data is None:
        files = _elements(_binary(tensor, binary), most)
    else:
        flat = tensor.data
        while len(flat) == 1 and isinstance(flat[0], list):
            flat = flat[0]
        if len(flat) == count and all(isinstance(one, list) and len(one) == 1 for one in flat):
            flat = [one[0] for one in flat]  # [N, 1]
        files = [bytes_of(one, f"inputs.0.data.{place}") for place, one in enumerate(flat[:most])]
    if len(files) != count:
        raise _wrong(f"inputs.0: {len(files)} files came, its shape needs {count}.")
    if not all(files):
        raise Refusal("EMPTY_BODY", "A file in the tensor is empty.")
    return files


def written(
    head: dict[str, Any], tensors: Sequence[Tensor], binary: Sequence[bool]
) -> tuple[bytes, int | None]:
    """Return an answer's body, and the length of its JSON if binary tensors follow it.

    In JSON a value that is not a number is ``null``: what the model didn't say.
    """
    outputs, tails = [], []
    for tensor, as_bytes in zip(tensors, binary, strict=True):
        array = tensor.values if isinstance(tensor.values, np.ndarray) else None
        shape = [len(tensor.values)] if array is None else list(array.shape)
        described: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": shape,
        }
        if as_bytes:
            tails.append(_packed(tensor))
            described["parameters"] = {"binary_data_size": len(tails[-1])}
        elif array is None:
            described["data"] = [one.decode() for one in tensor.values]
        else:
            described["data"] = [None if x != x else x for x in array.ravel().tolist()]
        outputs.append(described)
    text = json.dumps({**head, "outputs": outputs}).encode()
    return b"".join((text, *tails)), len(text) if tails else None


def _packed(tensor: Tensor) -> bytes:
    if isinstance(tensor.values, np.ndarray):
        return tensor.values.astype(_NUMPY[tensor.datatype]).tobytes()
    return b"".join(struct.pack("<I", len(one)) + one for one in tensor.values)


def _binary(tensor: InferInput, binary: memoryview) -> memoryview:
    # there is one input, so its bytes are all that there are
    if tensor.parameters.get("binary_data_size") != len(binary) or not binary:
        raise _wrong(
            f"inputs.0: {len(binary)} bytes came behind the JSON, not its binary_data_size."
        )
    return binary


def _from_json(data: list[Any]) -> NDArray[np.uint8]:
    # rows in rows are allowed, too; numpy isn't asked, it would make room for the longest text
    for _ in range(MOST_AXES):
        if not data or not all(isinstance(row, list) for row in data):
            break
        data = list(chain.from_iterable(data))
    try:
        return np.frombuffer(bytes(data), np.uint8)  # refuses all but integers from 0 to 255
    except (TypeError, ValueError, OverflowError):
        raise _wrong("inputs.0.data: expected integers from 0 to 255.") from None


def _elements(binary: memoryview, most: int) -> list[bytes]:
    found: list[bytes] = []
    while binary and len(found) <= most:
        length = int.from_bytes(binary[:4], "little")
        if len(binary) < 4 or length > len(binary) - 4:
            raise _wrong("inputs.0: an element is longer than the bytes that came.")
        found.append(bytes(binary[4 : 4 + length]))
        binary = binary[4 + length :]
    return found


def _wrong(detail: str) -> Refusal:
    return Refusal("INVALID_REQUEST", detail)
