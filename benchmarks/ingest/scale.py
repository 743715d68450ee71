"""How ingestion scales: two processes against one, Ray against processes, memory against the number of files.

    python benchmarks/ingest/scale.py                 1,000 and 10,000 files (minutes, 1.5 GB)
    python benchmarks/ingest/scale.py --files 2000    500 and 2,000 files

Draws two archives, every file another picture. Small files: photographs (960 x 720 JPEG) and 16-bit grey
DICOM (256 x 256) by turns. Photographs: 2000 x 1500 JPEG. Each run is a process of its own. One process
and two take turns, three rounds. Time and CPU time count from the 20th file done to the last, so that
start-up is outside. Memory is the highest sum of the proportional set sizes (PSS) of the process and all
its children, sampled from /proc. All runs of one archive must have the same digest. The leak doctor,
which looks at a finished data set, is left out.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import table  # noqa: E402

ROUNDS = 3
"""Of one process and two in turn: what else runs on the machine slows either."""
BEGUN = 20
"""Files after which start-up is over."""
BARS = {"processes": 1.8, "memory": 1.2, "ray": 0.7}


def draw(folder: Path, count: int) -> None:
    """Draw the archive."""
    rows, columns = np.mgrid[:720, :960]
    scene = np.stack([rows % 251, columns % 241, (rows + columns) % 239], axis=2).astype(np.uint8)
    slope = (np.add.outer(np.arange(256), np.arange(256)) * 100).astype(np.uint16)
    for k in range(count):
        # sixteen squares, black or white: the number in binary, large enough to survive the resize
        bits = np.array([k >> bit & 1 for bit in range(16)], bool).reshape(4, 4)
        path = folder / f"{k // 500:03d}" / f"{k:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k % 2:
            pixels = scene.copy()
            pixels[:128, :128] = (bits.repeat(32, 0).repeat(32, 1) * 255).astype(np.uint8)[
                ..., None
            ]
            Image.fromarray(pixels).save(path, "JPEG", quality=90)
        else:
            grey = slope.copy()
            grey[:64, :64] = bits.repeat(16, 0).repeat(16, 1).astype(np.uint16) * 60000
            path.write_bytes(dicom(grey, f"P{k // 4}"))


def draw_photographs(folder: Path, count: int) -> None:
    """Draw the archive of larger photographs."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:1500, :2000]
    waves = 128 + 60 * np.sin(rows / 37) + 60 * np.cos(columns / 53)
    noise = np.random.default_rng(1).normal(0, 6, waves.shape)
    scene = np.stack([waves + noise, waves * 0.7, 200 - waves * 0.5], axis=2)
    scene = scene.clip(0, 255).astype(np.uint8)
    for k in range(count):
        bits = np.array([k >> bit & 1 for bit in range(16)], bool).reshape(4, 4)
        scene[:256, :256] = (bits.repeat(64, 0).repeat(64, 1) * 255).astype(np.uint8)[..., None]
        Image.fromarray(scene).save(folder / f"{k:06d}", "JPEG", quality=90)


def dicom(pixels: np.ndarray, patient: str) -> bytes:
    """Return a grey 16-bit object."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    header.Modality, header.PatientID = "OT", patient
    header.Rows, header.Columns, header.SamplesPerPixel = *pixels.shape, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.PixelData = pixels.tobytes()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def one(source: Path, out: Path, engine: str, workers: int) -> None:
    """Ingest in this process and print the figures as JSON."""
    from data_schemas.contract import Contract
    from pipeline.ingest.ingest import Options, ingest

    times: list[tuple[float, ...]] = []

    def progress(done: int, total: int, note: str) -> None:
        if note == "reading" and done in (BEGUN, total):
            spent = session_use(os.getsid(0))[1]
            times.append((done, time.monotonic(), time.process_time(), spent))

    info = ingest(
        source,
        None,
        out,
        Contract(name="scale"),
        key=b"a key of the benchmark",
        progress=progress,
        options=Options(engine=engine, workers=workers, examine=False),
    )
    files, seconds, parent, spent = (b - a for a, b in zip(times[0], times[-1], strict=True))
    print(json.dumps({
        "digest": info.content_sha256, "images": info.images,
        "seconds": seconds, "rate": files / seconds, "parent_ms": 1000 * parent / files,
        "worker_ms": 1000 * (spent - parent) / files,
    }))  # fmt: skip


def measured(source: Path, engine: str, workers: int) -> dict:
    """Run :func:`one` in a session of its own and watch its memory."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--one", str(source), folder + "/out", engine, str(workers)]
        process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdout=subprocess.PIPE,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            text=True,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, session_use(process.pid)[0])
            time.sleep(0.25)
        text = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"{engine} {workers}: exit code {process.returncode}")
        return json.loads(text.splitlines()[-1]) | {"peak": peak}


def session_use(session: int) -> tuple[int, float]:
    """Return a session's memory (sum of PSS, bytes) and the CPU seconds of its living processes."""
    held, ticks = 0, 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            lines = (path / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        held += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        ticks += int(fields[11]) + int(fields[12])
    return held, ticks / os.sysconf("SC_CLK_TCK")


def verdict(value: float, bar: float, *, least: bool = True) -> str:
    """Return a ratio, its bar and whether it is met."""
    met = value >= bar if least else value <= bar
    return f"{value:.2f} (bar {bar:g}, {'met' if met else 'missed'})"


def in_turns(source: Path, kind: str, runs: list[tuple[str, int]], rounds: int) -> list[list[dict]]:
    """Measure engines in turns on one archive; all must end in the same digest."""
    found: list[list[dict]] = [[] for _ in runs]
    for _ in range(rounds):
        for place, (engine, workers) in enumerate(runs):
            figures = measured(source, engine, workers)
            found[place].append(figures)
            load = os.getloadavg()[0]
            print(
                f"{kind} {engine} {workers}: {figures['rate']:.0f}/s, load {load:.1f}",
                file=sys.stderr,
            )
    assert len({it["digest"] for its in found for it in its}) == 1, "two runs differ"
    return found


def row(kind: str, files: int, how: str, found: list[dict]) -> tuple[str, ...]:
    """Return a row of the table: CPU times are the lowest, memory the highest of all rounds."""
    rates = sorted(it["rate"] for it in found)
    worker, parent = (min(it[name] for it in found) for name in ("worker_ms", "parent_ms"))
    peak = max(it["peak"] for it in found) / 2**20
    return (
        kind, f"{files:,}", how, "" if how.startswith("ray") else f"{worker:.2f}", f"{parent:.2f}",
        f"{rates[-1]:.0f}", f"{rates[len(rates) // 2]:.0f}", f"{peak:.0f}", found[0]["digest"][:8],
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--one", nargs=4)
    options = parser.parse_args()
    if options.one:
        source, out, engine, workers = options.one
        one(Path(source), Path(out), engine, int(workers))
        return
    many = options.files
    few = many // 10 if many >= 10_000 else many // 4
    archives = [("small files", few, draw), ("photographs", few // 4, draw_photographs)]
    rows, lines, held = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, files, drawing in archives:
            source = Path(folder) / kind
            drawing(source, files)
            pair = in_turns(source, kind, [("local", 1), ("local", 2)], ROUNDS)
            rows += [row(kind, files, f"local {k}", its) for k, its in enumerate(pair, 1)]
            one_, two = ([it["rate"] for it in its] for its in pair)
            best = verdict(max(two) / max(one_), BARS["processes"])
            pairs = sorted(b / a for a, b in zip(one_, two, strict=True))
            lines.append(
                f"two processes / one, {kind}: best {best}, median of pairs {pairs[ROUNDS // 2]:.2f}"
            )
            held = held or max(it["peak"] for it in pair[1])
        source = Path(folder) / "many"
        draw(source, many)
        engines = [("local", 2)] + ([] if options.no_ray else [("ray", 2)])
        found = in_turns(source, "many small files", engines, 1)
    rows += [
        row("small files", many, f"{e} 2", its) for (e, _), its in zip(engines, found, strict=True)
    ]
    grown = verdict(found[0][0]["peak"] / held, BARS["memory"], least=False)
    lines.append(f"memory, {many:,} files / {few:,}: {grown}")
    if not options.no_ray:
        lines.append(
            f"Ray / local: {verdict(found[1][0]['rate'] / found[0][0]['rate'], BARS['ray'])}"
        )
    head = ("archive", "files", "engine, processes", "workers, CPU ms a file", "parent, CPU ms a file",
            "files/s, best", "files/s, median", "peak, MiB", "digest")  # fmt: skip
    print(table(head, rows), *(f"- {line}" for line in lines), sep="\n")


if __name__ == "__main__":
    main()
