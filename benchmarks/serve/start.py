"""Cold start and memory: ours beside FastAPI with the bare runtime, started in turn.

    python benchmarks/serve/start.py --out FOLDER [--network resnet18] [--starts 10]
        [--memory 1000,20000] [--parts]

Start: from the process's start to its first score over HTTP, by the clock and in CPU time of all its
processes, medians. --parts tells which of our modules the time goes to. Memory: after so many requests
of 512 px JPEG, eight at a time; PSS counts a page that several processes share once.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
from bodies import bodies  # noqa: E402
from load import Client, measure  # noqa: E402
from network import NETWORKS, PHOTOGRAPHS, trained  # noqa: E402
from servers import PEERS, Server, cpu_of, free_port, launch, ours  # noqa: E402
from timing import table  # noqa: E402

BAR, MEMORY_BAR_MIB = 1.3, 350
LOOK_S = 0.01


def started(
    words: list[str], path: str, package: Path, out: Path, body: bytes
) -> tuple[float, float]:
    """Return (wall, CPU) seconds from the process's start to its first score."""
    port = free_port()
    began = time.perf_counter()
    process = launch(
        [*words, "--port", str(port)], out / "start.log", BENCH_PACKAGE=str(package)
    )  # fmt: skip
    server = Server("start", process, f"http://127.0.0.1:{port}{path}", {}, bytes, json.loads)
    try:
        # asking costs the server: it is asked once, when its log or its port says that it can answer
        while not _can_answer(out / "start.log", port, says_ready=path.startswith("/v1")):
            assert process.poll() is None, "it ended; see start.log"
            time.sleep(LOOK_S)
        Client(server).ask(body)
        wall = time.perf_counter() - began
        server.look()
        # children that have ended are in their parent's account
        ended = sum(
            psutil.Process(pid).cpu_times()[2:4] != (0, 0)
            and sum(psutil.Process(pid).cpu_times()[2:4])
            for pid in server.tree
        )
        return wall, sum(map(cpu_of, server.tree)) + ended
    finally:
        server.stop()


def _can_answer(log: Path, port: int, *, says_ready: bool) -> bool:
    if says_ready:
        return b'"event": "ready"' in log.read_bytes()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def starts(package: Path, out: Path, body: bytes, count: int) -> str:
    """Return the table of cold starts."""
    serve = [sys.executable, "-m", "services.cli.main", "serve", str(package)]
    bare = [sys.executable, "-m", "uvicorn", "fastapi_runtime:app", "--log-level", "warning"]
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    for turn in range(count + 1):
        for name, words, path in (("ours", serve, "/v1/scores"), ("bare", bare, "/predict")):
            taken = started(words, path, package, out, body)
            if turn:  # the first reads files from the disk
                found[name].append(taken)
    rows = []
    for name, label in (("ours", "hilum serve"), ("bare", "FastAPI + ONNX Runtime, bare")):
        wall, cpu = (median(values) for values in zip(*found[name], strict=True))
        rows.append((label, f"{wall:.2f}", f"{cpu:.2f}"))
    ratios = [
        median(a[k] / b[k] for a, b in zip(found["ours"], found["bare"], strict=True))
        for k in (0, 1)
    ]
    head = (f"start to first score, median of {count}", "wall s", "CPU s")
    rows.append((f"ours / bare (bar {BAR})", *(f"{ratio:.2f}" for ratio in ratios)))
    return f"{table(head, rows)}\n\nload average {os.getloadavg()[0]:.1f}"


def memory(package: Path, out: Path, files: list[bytes], counts: list[int]) -> str:
    """Return the table of memory after so many requests."""
    server = ours(package, out)
    rows, done = [], 0
    try:
        for count in [0, *counts]:
            if count > done:
                measure_in_parts(server, files, count - done)
            done = count
            server.look()
            pss, resident = [], []
            for pid in server.tree:
                full = psutil.Process(pid).memory_full_info()
                pss.append(full.pss)
                resident.append(full.rss)
            rows.append(
                (f"{count:,}", f"{sum(pss) / 2**20:.0f}", f"{max(resident) / 2**20:.0f}", len(pss))
            )
    finally:
        server.stop()
    head = ("requests", "PSS of all processes, MiB", "RSS of the largest, MiB", "processes")
    return f"{table(head, rows)}\n\nbar: {MEMORY_BAR_MIB} MiB after 1,000 requests, flat from there"


def measure_in_parts(server: Server, files: list[bytes], count: int) -> None:
    server.look()
    for first in range(0, count, 1000):
        measure(server, files, min(1000, count - first), 8)


def parts() -> str:
    """Return what the imports of the command cost, largest first."""
    names = "pydicom,uvicorn.protocols.http.httptools_impl,services.inference.app,services.inference.decoders"
    code = f"import services.cli.commands.serve, services.inference.server, {names}, pipeline.model.runtime"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stderr  # fmt: skip
    rows = [line.split("|") for line in told.splitlines() if line.startswith("import time:")][1:]
    cumulative = sorted(((int(row[1]), row[2].rstrip()) for row in rows), reverse=True)[:40]
    return table(
        ("module", "ms with all that it imports"), [(n, f"{us / 1000:.0f}") for us, n in cumulative]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench-serve")
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument(
        "--memory", default="1000", type=lambda text: [int(n) for n in text.split(",") if n]
    )
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    if not PHOTOGRAPHS.is_dir():
        print("needs the photographs of ../shared/data/fundus_rahim", file=sys.stderr)
        return 77
    assert PEERS.is_dir()
    out = options.out.resolve()
    package = trained(out, options.network)
    files = [file.read_bytes() for file in bodies(out, "jpeg512")]
    if options.parts:
        print(parts())
    if options.starts:
        print("\n" + starts(package, out, files[0], options.starts))
    if options.memory:
        print("\n" + memory(package, out, files, options.memory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
