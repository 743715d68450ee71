"""The only module that knows about processes and devices. With one process it does nothing."""

import contextlib
import ctypes
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data_schemas.errors import TrainingError
from pipeline.model.cores import available_cores

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""glibc's numbers of two settings (malloc.h): how large a piece is mapped by itself, and how much
free memory at the end of the heap is kept."""


@dataclass(frozen=True)
class World:
    """One process among those that train together, and its device.

    Every process starts from the same seed, works on its share of each batch, and averages
    gradients with the others before each step; so all hold the same weights, validate alike and
    stop together. Only the first one writes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that tracks and exports."""
        return self.rank == 0

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this process's part of a batch."""
        return indices[self.rank :: self.size]

    def take(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array on this process's device; a GPU fetches it while it computes."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def average_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: float) -> float:
        """Return the mean of a number over the processes."""
        if self.size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total.item()) / self.size

    def either(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether any process raised it."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(raised)
        return tuple(bool(count) for count in raised.tolist())

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every process's tensor, in order of rank; all must be of one shape."""
        return [part.cpu() for part in self.stacked(tensor.to(self.device))]

    def stacked(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return every process's tensor, of one shape and on its device, as [size, ...]."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def hand_out(self, data: bytes) -> bytes:
        """Return the first process's bytes in every process."""
        if self.size == 1:
            return data
        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        torch.distributed.broadcast(length, src=0)
        content = torch.empty(int(length.item()), dtype=torch.uint8)
        if self.is_first and data:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        content = content.to(self.device)
        if len(content):
            torch.distributed.broadcast(content, src=0)
        return bytes(content.cpu().numpy())

    def agree(self, network: nn.Module) -> None:
        """Take over the first process's running statistics, the one thing that differs."""
        if self.size > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """Return the block in which a backbone computes in ``precision``."""
        if precision == "fp32":
            return nullcontext()
        block: AbstractContextManager[object] = torch.autocast(
            self.device.type, dtype=torch.bfloat16
        )
        return block


def use_threads(threads: int) -> None:
    """Let torch use so many threads from now on; 0: all cores this process may use."""
    torch.set_num_threads(threads_of(threads))


def threads_of(threads: int) -> int:
    """Return how many threads a plan's number means here: 0 is all cores this process may use."""
    return threads or available_cores()


def open_world(device: str, threads: int, seed: int, *, rank: int = 0, size: int = 1) -> World:
    """Set this process up for a run: device, threads, seed; join the others if there are any.

    ``rank`` and ``size`` come from ``torchrun`` through the door (``RANK``, ``WORLD_SIZE``).

    Raises
    ------
    TrainingError
        If the device doesn't exist here.
    """
    keep_freed_memory()
    use_threads(threads)
    torch.manual_seed(seed)
    chosen = _device(device, rank)
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if size > 1:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, rank=rank, world_size=size)
    return World(rank, size, chosen)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for the next step, instead of giving it back.

    A training step frees and takes the same gigabyte every time. By default glibc gives large
    pieces back to the system, which must hand out and clear them anew: a tenth of the step and
    more. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        for setting, value in ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1)):
            allocator.mallopt(setting, value)


def close_world(world: World) -> None:
    """Leave the other processes."""
    if world.size > 1:
        torch.distributed.destroy_process_group()


def _device(name: str, rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(
            f"`{name}` is not a device", where="device", mend="use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = rank % max(count, 1) if device.index is None else device.index
        if index >= count:
            raise TrainingError(
                f"`{name}` is wanted, this machine has {count} CUDA devices",
                where="device",
                mend="use auto or cpu",
            )
        return torch.device("cuda", index)
    return device
