"""The HTTP service against its own floor: read, prepare and run in one process, same threads.

    python benchmarks/serve/run.py [PACKAGE]

Without PACKAGE a ResNet-18 with random weights at 224 px is exported first. Bodies: a 512-pixel
and a 6-megapixel JPEG. CPU time of the server's process per request, at 1 and 8 at a time.
"""

import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import table  # noqa: E402

from data_schemas.card import Card, OperatingPoint, Output  # noqa: E402
from data_schemas.contract import Contract  # noqa: E402
from pipeline.model.package import open_package  # noqa: E402
from pipeline.model.runtime import Runtime  # noqa: E402
from pipeline.model.scoring import score_bytes  # noqa: E402

REQUESTS = 48
ROUNDS = 3


def export(folder: Path) -> Path:
    """Export a ResNet-18 with random weights."""
    import torch

    from data_schemas.plan import NetworkPlan
    from pipeline.model.export import export_package
    from pipeline.train.networks import build

    torch.manual_seed(0)
    contract = Contract(name="bench", size=224)
    zeros = "0" * 64
    card = Card(
        name="bench", dataset_name="none", dataset_sha256=zeros, contract_name=contract.name,
        contract_sha256=contract.digest(), plan_sha256=zeros, backbone="resnet18", parameters=0,
        size=224, channels=3, evidence_stride=32, primary="finding",
        outputs=(Output(label="finding", classes=("no", "yes"), columns=(0,), positive_classes=(1,)),),
        operating_points=(
            OperatingPoint(label="finding", rule="fixed", low=0.5, high=0.5, images=0, positives=0,
                           sensitivity=0, specificity=0),
        ),
        onnx_max_logit_difference=0,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    export_package(build(NetworkPlan(), 1, 224).eval(), images, card, contract, folder)
    return folder


def jpeg(rows: int, columns: int) -> bytes:
    """Draw a textured photograph."""
    noise = np.random.default_rng(0).normal(0, 6, (rows, columns, 3))
    pixels = np.clip(noise + np.linspace(40, 200, columns)[None, :, None], 0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def cpu_of(process: psutil.Process) -> float:
    """Return user and system seconds of a process so far."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def per_request(process: psutil.Process, work: Callable[[], object], at_once: int) -> float:
    """Return the process's CPU milliseconds per piece of work, ``at_once`` in flight."""
    before = cpu_of(process)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: work(), range(REQUESTS)))
    return 1000 * (cpu_of(process) - before) / REQUESTS


def main() -> None:
    """Start the service, measure, print the table, stop the service."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else export(Path(scratch) / "package")
        command = [sys.executable, "-m", "services.cli.main", "serve", str(folder)]
        server = subprocess.Popen(
            [*command, "--port", "0", "--threads", "2", "--json"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            url = address_of(server)
            print(measure(folder, url, psutil.Process(server.pid)))
        finally:
            server.terminate()
            server.wait(30)


def address_of(server: "subprocess.Popen[str]") -> str:
    """Read the service's address and wait until it is ready."""
    assert server.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        text += server.stdout.readline()
    url = str(json.loads(text)["url"])
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2)
        except OSError:
            time.sleep(0.1)
        else:
            return url
    raise SystemExit("the service didn't become ready")


def measure(folder: Path, url: str, server: psutil.Process) -> str:
    """Return the table."""
    package = open_package(folder)
    runtime = Runtime(package, threads=1)
    own = psutil.Process()
    rows: list[tuple[object, ...]] = []
    for name, body in (("512 px JPEG", jpeg(512, 512)), ("6-megapixel JPEG", jpeg(2000, 3000))):

        def over_http(body: bytes = body) -> object:
            request = urllib.request.Request(f"{url}/v1/scores", data=body)
            return urllib.request.urlopen(request, timeout=60).read()

        def in_process(body: bytes = body) -> object:
            return score_bytes(package, runtime, body).model_dump_json()

        over_http(), in_process()
        for at_once in (1, 8):
            # the floor has as many threads as the service: two
            floors, https = [], []
            for _ in range(ROUNDS):
                floors.append(per_request(own, in_process, min(at_once, 2)))
                https.append(per_request(server, over_http, at_once))
            floor, http = sorted(floors)[ROUNDS // 2], sorted(https)[ROUNDS // 2]
            rows.append((name, at_once, f"{floor:.1f}", f"{http:.1f}", f"{floor / http:.2f}"))
    resident = server.memory_info().rss / 2**20
    head = ("body", "at once", "in process, ms", "over HTTP, ms", "floor / HTTP")
    return f"{table(head, rows)}\n\nresident memory of the service: {resident:.0f} MiB"


if __name__ == "__main__":
    main()
