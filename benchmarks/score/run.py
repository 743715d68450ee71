"""Batch scoring against its own floor: read, prepare and run in a bare loop, one loop for each core.

    python benchmarks/score/run.py [--images 20000] [--package FOLDER] [--workers 2]

Without --package a ResNet-18 with random weights at 224 px is exported first. Images are real photographs
of ../shared/data/fundus_rahim, or drawn ones where they are missing, and one in four is a JPEG of 28
pixels; links name them again and again, so that nothing is copied. `hilum score` is a process of its own
with its workers; its processor time, rows and memory are looked at while it works.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import table  # noqa: E402

from benchmarks.serve.network import export_random  # noqa: E402
from pipeline.batch.parts import JOURNAL  # noqa: E402
from pipeline.imaging.prepare import prepare  # noqa: E402
from pipeline.imaging.read import read  # noqa: E402
from pipeline.model.package import open_package  # noqa: E402
from pipeline.model.runtime import Runtime  # noqa: E402

PHOTOGRAPHS = ROOT / "../shared/data/fundus_rahim"
LOOK_EVERY_S = 0.25
SMALL_EVERY = 4
FLOOR_IMAGES = 1000
BAR = 0.95


@dataclass(frozen=True)
class Look:
    """The processes of `hilum score` at one moment."""

    wall: float
    rows: int
    cpu: float
    resident: int


def drawn(size: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((size, size), 3).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def link_images(folder: Path, count: int) -> list[Path]:
    """Name ``count`` images: photographs again and again, and small ones between them."""
    own = folder.with_name("own")
    own.mkdir()
    for k in range(50):
        (own / f"small{k}.jpg").write_bytes(drawn(28, k))
    large = sorted(path.resolve() for path in PHOTOGRAPHS.rglob("*.jp*g"))
    if not large:
        for k in range(50):
            (own / f"large{k}.jpg").write_bytes(drawn(1024, k))
        large = sorted(own.glob("large*"))
    small = sorted(own.glob("small*"))
    links = []
    for k in range(count):
        few = small if k % SMALL_EVERY == 0 else large
        link = folder / f"{k // 1000:03d}" / f"{k:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(few[k % len(few)])
        links.append(link)
    return links


def floor(package: Path, files: list[str]) -> dict[str, float]:
    """Read, prepare and run, and nothing else; called in a process of its own."""
    opened = open_package(package)
    runtime = Runtime(opened)
    _once(opened, runtime, Path(files[0]))
    began, cpu = time.monotonic(), time.process_time()
    for file in files:
        _once(opened, runtime, Path(file))
    return {"cpu": time.process_time() - cpu, "wall": time.monotonic() - began}


def _once(package, runtime, file: Path) -> None:
    prepared = prepare(read(file.read_bytes(), package.contract), package.contract)
    runtime.run(prepared.pixels[None])


def floors(package: Path, files: list[Path], workers: int) -> tuple[float, float]:
    """Return CPU ms per image and images per second of ``workers`` bare loops side by side."""
    some = [str(file) for file in files[:: max(1, len(files) // FLOOR_IMAGES)]][:FLOOR_IMAGES]
    command = [sys.executable, __file__, "--floor", "--package", str(package)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    for k, process in enumerate(running):
        process.stdin.write("\n".join(some[k::workers]))
        process.stdin.close()
    found = [json.loads(process.stdout.read()) for process in running]
    assert not any(process.wait() for process in running)
    cpu = sum(each["cpu"] for each in found) / len(some)
    return 1000 * cpu, len(some) / max(each["wall"] for each in found)


def score(package: Path, folder: Path, out: Path, workers: int) -> list[Look]:
    """Run `hilum score`, and look at its processes until it ends."""
    words = [str(folder), "--model", str(package), "--out", str(out), "--workers", str(workers)]
    process = psutil.Popen(
        [sys.executable, "-m", "services.cli.main", "score", *words],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    journal = out.parent / f".{out.name}.part" / JOURNAL
    began, rows, spent, looks, read_to = time.monotonic(), -1, {}, [], 0
    while process.poll() is None:
        if journal.exists():
            with journal.open("rb") as stream:
                stream.seek(read_to)
                fresh = stream.read()
            read_to, rows = read_to + len(fresh), rows + fresh.count(b"\n")
        resident = 0
        try:
            for each in [process, *process.children(recursive=True)]:
                times = each.cpu_times()
                spent[each.pid] = times.user + times.system
                resident += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        now = time.monotonic() - began
        looks.append(Look(now, max(rows, 0), sum(spent.values()), resident))
        time.sleep(LOOK_EVERY_S)
    assert process.returncode == 0, f"hilum score ended with {process.returncode}"
    looks.append(Look(time.monotonic() - began, rows, sum(spent.values()), 0))
    return looks


def report(looks: list[Look], count: int, bare: list[tuple[float, float]]) -> str:
    """Return the tables."""
    floor_cpu = float(np.mean([cpu for cpu, _ in bare]))
    floor_rate = float(np.mean([rate for _, rate in bare]))
    end = looks[-1]
    working = [look for look in looks if 0.05 * count <= look.rows < count]
    first, last = working[0], working[-1]
    steady = last.rows - first.rows
    steady_cpu = 1000 * (last.cpu - first.cpu) / steady
    steady_rate = steady / (last.wall - first.wall)
    whole_cpu, whole_rate = 1000 * end.cpu / count, count / end.wall
    speed = table(
        (f"{count} images", "CPU ms an image", "of the floor", "images/s", "of the floor"),
        [
            ("bare loops", f"{floor_cpu:.1f}", "1.00", f"{floor_rate:.1f}", "1.00"),
            ("hilum score, once it works", f"{steady_cpu:.1f}", f"{floor_cpu / steady_cpu:.3f}",
             f"{steady_rate:.1f}", f"{steady_rate / floor_rate:.2f}"),
            ("hilum score, start to end", f"{whole_cpu:.1f}", f"{floor_cpu / whole_cpu:.3f}",
             f"{whole_rate:.1f}", f"{whole_rate / floor_rate:.2f}"),
        ],
    )  # fmt: skip
    shares = (0.1, 0.25, 0.5, 0.75, 0.99)
    moments = [next(look for look in working if look.rows >= share * last.rows) for share in shares]
    memory = table(
        ("rows written", *(f"{look.rows}" for look in moments)),
        [("resident MiB, all processes", *(f"{look.resident / 2**20:.0f}" for look in moments))],
    )
    return f"{speed}\n\n{memory}\n\nbar: {BAR} of the floor's CPU time an image"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--package", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--floor", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.floor:
        print(json.dumps(floor(options.package, sys.stdin.read().split("\n"))))
        return 0
    with tempfile.TemporaryDirectory(prefix="hilum-bench-score-") as scratch:
        package = options.package
        if package is None:
            package = export_random(Path(scratch) / "package")

        folder = Path(scratch) / "images"
        folder.mkdir()
        files = link_images(folder, options.images)
        bare = [floors(package, files, options.workers)]
        looks = score(package, folder, Path(scratch) / "scores.parquet", options.workers)
        bare.append(floors(package, files, options.workers))
    print(report(looks, options.images, bare))
    return 0


if __name__ == "__main__":
    sys.exit(main())
