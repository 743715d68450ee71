"""What a training step costs on a device, and what the device could do at best."""

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

PAUSE_S = 0.2


@dataclass(frozen=True)
class Found:
    """One variant's figures. ``busy`` is the GPU's utilisation in %, nan where nothing tells it."""

    name: str
    images_per_s: float
    gflop_per_image: float
    waited: float  # share of the time
    busy: float
    memory_gib: float

    @property
    def tflops(self) -> float:
        """Return counted floating-point operations per second, in units of 10^12."""
        return self.images_per_s * self.gflop_per_image / 1000


def gflop_per_image(network: torch.nn.Module, size: int) -> float:
    """Return 10^9 floating-point operations per image of a forward and backward pass.

    Counted by torch from the shapes of products and convolutions; a multiplication and an addition
    are two. What is not a product (normalisation, activation) counts nothing, as is usual.
    """
    device = next(network.parameters()).device
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        network(images)[0].sum().backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 2 / 1e9


def matmul_tflops(device: torch.device, side: int = 8192, repeats: int = 20) -> float:
    """Return what the device reaches in bf16 products of [side, side], in 10^12 per second."""
    one = torch.randn(side, side, device=device).to(torch.bfloat16)
    other = torch.randn(side, side, device=device).to(torch.bfloat16)
    found = []
    for _ in range(3):
        wait_for(device)
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(one, other)
        wait_for(device)
        found.append(2 * side**3 * repeats / (time.perf_counter() - started) / 1e12)
    return max(found[1:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Return images per second of repeated ``work``, which returns how many it did.

    The first call is not measured: it compiles, and fills caches.
    """
    work()
    wait_for(device)
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        images += work()
        wait_for(device)
    return images / (time.perf_counter() - started)


@contextlib.contextmanager
def watched(device: torch.device) -> Iterator[list[float]]:
    """Yield a list that fills with the GPU's utilisation in % while the block runs."""
    heard: list[float] = []
    command = shutil.which("nvidia-smi")
    if device.type != "cuda" or command is None:
        yield heard
        return
    words = [command, f"--id={device.index or 0}", "--query-gpu=utilization.gpu"]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PAUSE_S):
            done = subprocess.run(
                [*words, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                check=False,
            )
            with contextlib.suppress(ValueError):
                heard.append(float(done.stdout.strip()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        over.set()
        thread.join()


def middle(values: list[float]) -> float:
    """Return the median, nan of nothing."""
    return statistics.median(values) if values else float("nan")
