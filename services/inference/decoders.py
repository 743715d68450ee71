"""Decoder processes beside a worker: a file that kills or hangs a decoder is one refused image, no outage.

A body goes to its decoder through a memory file (a large one through that in which it landed), the
prepared array comes back through one that both hold; a few facts travel as JSON, because a decoder
that a file has taken over must not be able to hand the worker anything but values (a pickle would be
code). Measured cost: docs/serving-speed.md.
"""

import io
import json
import os
import queue
import resource
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.contract import Contract
from data_schemas.errors import HilumError, ImageError
from data_schemas.score import QualityAnswer
from pipeline.imaging.instance import Instance, Prepared, Stored
from pipeline.imaging.kinds import prepare_any_kind, read_any_kind
from pipeline.imaging.picture import picture
from pipeline.imaging.prepare import came_prepared
from pipeline.imaging.workers import WorkerLimits, limit_cpu, limit_memory, why_ended
from pipeline.model.overlay import reduced

if TYPE_CHECKING:
    from services.inference.landing import Landed

MESSAGE = 128 * 1024
"""Longest JSON message; a contract has a few thousand bytes."""

KEPT = 16 * 2**20
"""Bytes of a memory file that are kept from request to request; larger ones are given back."""


IDLE_S = 1.0
"""A process that nobody has asked for so long has time to import more."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What scoring needs of a file."""

    instance: Instance
    """Its facts; no pixels where a process of its own decoded it."""
    prepared: Prepared
    picture: NDArray[np.uint8] | None
    """uint8 [H, W, 3] as a reader knows it, reduced for an overlay, if asked for."""
    decode_seconds: float
    prepare_seconds: float


class Decoding(Protocol):
    """Where files are decoded."""

    def decode(self, data: "bytes | Landed", contract: Contract, *, seen: bool) -> Decoded:
        """Return the file's prepared image, and its picture if ``seen``; ``ImageError`` if it is none."""

    def close(self) -> None:
        """End what it started."""


class Here:
    """Decodes in the calling thread: for an application that runs without a supervisor."""

    def decode(self, data: "bytes | Landed", contract: Contract, *, seen: bool) -> Decoded:
        """See :class:`Decoding`."""
        whole = data if isinstance(data, bytes) else bytes(data.view)
        return decoded(whole, contract, seen=seen)

    def close(self) -> None:
        """Nothing to end."""


def decoded(data: bytes, contract: Contract, *, seen: bool) -> Decoded:
    """Decode and prepare in this very thread.

    Raises
    ------
    ImageError
        If the bytes don't become an image under the contract.
    """
    began = time.perf_counter()
    instance = read_any_kind(data, contract)
    read_at = time.perf_counter()
    prepared = prepare_any_kind(instance, contract)
    ended = time.perf_counter()
    judged = prepared.quality.sufficient and not prepared.outside
    shown = reduced(picture(instance)) if seen and judged else None
    return Decoded(instance, prepared, shown, read_at - began, ended - read_at)


def as_decoded(pixels: NDArray[np.uint8]) -> Decoded:
    """Return an image that came prepared, uint8 [size, size, channels], as if it had been decoded."""
    return Decoded(*came_prepared(pixels), None, 0.0, 0.0)


class Breeding(Protocol):
    """Makes decoder processes; :class:`services.inference.nursery.Nursery`."""

    def start(self, channel: socket.socket, memory: int) -> int:
        """Start a decoder at the other end of ``channel``; return its process id."""

    def end(self, pid: int) -> int | None:
        """Kill and reap one; return its exit code."""

    def close(self) -> None:
        """End all of them."""


class _Decoder:
    """One process and what it shares with this one."""

    def __init__(self, breeding: Breeding) -> None:
        self.memory = os.memfd_create("hilum-image", os.MFD_CLOEXEC)
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = breeding.start(theirs, self.memory)
        self.contract: Contract | None = None
        """The one that it works by."""

    def close(self) -> None:
        self.channel.close()
        os.close(self.memory)


class Apart:
    """``count`` decoder processes, each busy with one file at a time. Called from ``count`` threads.

    Parameters
    ----------
    breeding
        Where new processes come from.
    limits
        Time and memory of one file, as ingestion has them.
    lost
        Told the code of each file that cost a process.
    """

    def __init__(
        self,
        breeding: Breeding,
        count: int,
        limits: WorkerLimits,
        lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._breeding = breeding
        self._limits = limits
        self._lost = lost
        self._idle: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        # the last one used is the next one used: its memory file and caches are warm
        for _ in range(count):
            self._idle.put(_Decoder(breeding))

    def decode(self, data: "bytes | Landed", contract: Contract, *, seen: bool) -> Decoded:
        """See :class:`Decoding`."""
        decoder = self._idle.get()
        try:
            if decoder is None:  # none could be started in the place of a lost one: try again
                decoder = _Decoder(self._breeding)
            answer = self._asked(decoder, data, contract, seen=seen)
        except _LostError as lost:
            assert decoder is not None  # noqa: S101 - for the type checker
            code = self._breeding.end(decoder.pid)
            decoder.close()
            decoder = None
            end = why_ended(code, self._limits, late=lost.late)
            self._lost(end.code)
            raise ImageError(end.code, end.reason) from None
        finally:
            self._idle.put(decoder)
        return answer

    def close(self) -> None:
        """End all decoders; none may be at work."""
        while not self._idle.empty():
            decoder = self._idle.get()
            if decoder is not None:
                decoder.close()
        self._breeding.close()

    def _asked(
        self, decoder: _Decoder, data: "bytes | Landed", contract: Contract, *, seen: bool
    ) -> Decoded:
        order: dict[str, Any] = {"bytes": len(data), "seen": seen}
        if isinstance(data, bytes):
            files = []
            _write(decoder.memory, 0, data)
        else:  # it lies in a memory file already
            files = [data.file]
        # the very same object, mostly: its digest costs more than all the rest here
        if contract is not decoder.contract:
            order["contract"] = contract.model_dump_json()
        try:
            decoder.channel.settimeout(self._limits.seconds)
            socket.send_fds(decoder.channel, [json.dumps(order).encode()], files)
            reply = decoder.channel.recv(MESSAGE)
        except TimeoutError:
            raise _LostError(late=True) from None
        except OSError:
            raise _LostError(late=False) from None
        if not reply:
            raise _LostError(late=False)
        decoder.contract = contract
        try:
            return _unpacked(json.loads(reply), decoder.memory, contract)
        except (ValueError, KeyError, TypeError):
            # what answers there isn't our decoder any more
            raise _LostError(late=False) from None
        finally:
            if os.fstat(decoder.memory).st_size > KEPT:
                os.ftruncate(decoder.memory, KEPT)


class _LostError(Exception):
    """A decoder ended or had to be ended."""

    def __init__(self, *, late: bool) -> None:
        super().__init__()
        self.late = late


def serve_decoder(channel: socket.socket, memory: int, limits: WorkerLimits) -> None:
    """Decode until the worker closes its end. The whole life of a decoder process."""
    limit_memory(limits.memory_bytes)
    contract = Contract(name="none yet")
    ready_for_dicom(channel)
    while True:
        order, files, _, _ = socket.recv_fds(channel, MESSAGE, 1)
        if not order:
            return
        asked = json.loads(order)
        limit_cpu(limits.seconds)
        if "contract" in asked:
            contract = Contract.model_validate_json(asked["contract"])
        body = files[0] if files else memory
        channel.send(json.dumps(_answered(asked, body, memory, contract)).encode())
        for file in files:
            os.close(file)


def rehearse() -> None:
    """Decode a drawn JPEG: what only the first image would have to wait for is done, and inherited."""
    drawn = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(drawn, "JPEG")
    decoded(drawn.getvalue(), Contract(name="rehearsal"), seen=False)


def ready_for_dicom(channel: socket.socket) -> None:
    """Import what reads DICOM in the first idle moment: neither the start waits for it, nor an image."""
    if not select.select([channel], [], [], IDLE_S)[0]:
        import pipeline.imaging.dicom_read  # noqa: F401


def _answered(asked: dict[str, Any], body: int, memory: int, contract: Contract) -> dict[str, Any]:
    try:
        found = decoded(_read(body, 0, asked["bytes"]), contract, seen=asked["seen"])
    except ImageError as error:
        return {"code": error.code, "what": error.what, "where": error.where, "mend": error.mend}
    except MemoryError:
        return {"code": "DECODER_DIED", "what": "decoding needs more memory than it may take"}
    except Exception as error:  # noqa: BLE001 - the service goes on, as ingestion does
        return {"code": "DECODER_DIED", "what": f"the reader failed with {type(error).__name__}"}
    return _packed(found, memory)


_FACTS = ("source_sha256", "format", "modality", "laterality", "rows", "columns")


def _packed(found: Decoded, memory: int) -> dict[str, Any]:
    pixels = np.ascontiguousarray(found.prepared.pixels)
    if pixels.size:  # of an image of another kind there is no array
        _write(memory, 0, pixels.data.cast("B"))
    seen = found.picture
    if seen is not None:
        _write(memory, pixels.nbytes, np.ascontiguousarray(seen).data.cast("B"))
    return {
        "facts": {name: getattr(found.instance, name) for name in _FACTS},
        "read": found.instance.warnings,
        "pixels": pixels.shape,
        "region": [int(side) for side in found.prepared.region],
        "quality": found.prepared.quality.model_dump(),
        "prepared": found.prepared.warnings,
        "outside": found.prepared.outside,
        "picture": None if seen is None else seen.shape,
        "seconds": (found.decode_seconds, found.prepare_seconds),
        # the largest that this process ever was, for the figures
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _unpacked(reply: dict[str, Any], memory: int, contract: Contract) -> Decoded:
    if "code" in reply:
        raise ImageError(
            reply["code"], reply["what"], where=reply.get("where"), mend=reply.get("mend")
        )
    shape = tuple(reply["pixels"])
    outside = str(reply["outside"])
    size = 0 if outside else contract.size
    if shape != (size, size, contract.channels):
        raise ValueError(f"pixels {shape}")
    length = int(np.prod(shape))
    pixels = np.frombuffer(_read(memory, 0, length), np.uint8).reshape(shape)
    seen = None
    if reply["picture"] is not None:
        seen_shape = tuple(reply["picture"])
        taken = _read(memory, length, int(np.prod(seen_shape)))
        seen = np.frombuffer(taken, np.uint8).reshape(seen_shape)
    top, left, height, width = reply["region"]
    instance = Instance(
        stored=Stored(np.zeros((0, 0), np.uint8)),
        grey=None,
        patient_key="",
        warnings=tuple(reply["read"]),
        **reply["facts"],
    )
    quality = QualityAnswer.model_validate(reply["quality"])
    warnings = tuple(reply["prepared"])
    prepared = Prepared(pixels, (top, left, height, width), quality, warnings, outside)
    return Decoded(instance, prepared, seen, *reply["seconds"])


def _write(memory: int, offset: int, data: bytes | memoryview) -> None:
    # one call takes all bytes, up to 2 GiB
    done = os.pwrite(memory, data, offset)
    if done != len(data):
        raise HilumError(f"the memory file took {done} of {len(data)} bytes")


def _read(memory: int, offset: int, length: int) -> bytes:
    # one call reads all of a memory file's bytes, up to 2 GiB
    data = os.pread(memory, length, offset)
    if len(data) != length:
        raise HilumError(f"{len(data)} of {length} bytes lie in the memory file")
    return data
