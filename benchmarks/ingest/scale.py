"""How ingestion scales: two processes against one, Ray against processes, memory against the number of files.

    python benchmarks/ingest/scale.py                 1,000 and 10,000 files (a quarter of an hour, 1.5 GB)
    python benchmarks/ingest/scale.py --files 2000    500 and 2,000 files (two minutes)

Draws an archive of photographs (960 x 720 JPEG) and 16-bit grey DICOM (256 x 256), every file another
picture. Each row is a process of its own. Time counts from the first file done to the last, so that
start-up is outside. Memory is the highest sum of the proportional set sizes (PSS) of the process and all
its children, sampled from /proc; CPU time is theirs, too, start-up included. All rows of one archive must
have the same digest. The leak doctor, which looks at a finished data set, is left out.
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
"""Of one process and two in turn, the best of each: what else runs on the machine slows either."""


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

    times: list[tuple[int, float, float]] = []

    def progress(done: int, _: int, note: str) -> None:
        if note == "reading":
            times.append((done, time.monotonic(), time.process_time()))

    info = ingest(
        source,
        None,
        out,
        Contract(name="scale"),
        key=b"a key of the benchmark",
        progress=progress,
        options=Options(engine=engine, workers=workers, examine=False),
    )
    first, last = next(entry for entry in times if entry[0] > 0), times[-1]
    files, seconds, parent = (b - a for a, b in zip(first, last, strict=True))
    print(json.dumps({
        "digest": info.content_sha256, "images": info.images,
        "seconds": seconds, "rate": files / seconds, "parent_ms": 1000 * parent / files,
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
        peak, cpu = 0, 0.0
        while process.poll() is None:
            held, spent = session_use(process.pid)
            peak, cpu = max(peak, held), max(cpu, spent)
            time.sleep(0.25)
        text = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"{engine} {workers}: exit code {process.returncode}")
        return json.loads(text.splitlines()[-1]) | {"peak": peak, "cpu": cpu}


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
    few = options.files // 10 if options.files >= 10_000 else options.files // 4
    runs = [(few, "local", 1), (few, "local", 2)] * ROUNDS + [(options.files, "local", 2)]
    runs += [] if options.no_ray else [(options.files, "ray", 2)]
    found: dict[tuple[int, str, int], dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for files, engine, workers in runs:
            source = Path(folder) / str(files)
            if not source.exists():
                draw(source, files)
            figures = measured(source, engine, workers)
            best = found.setdefault((files, engine, workers), figures)
            assert best["digest"] == figures["digest"], "two runs differ"
            if figures["rate"] > best["rate"]:
                found[files, engine, workers] = figures
            print(
                f"{files} {engine} {workers}: {figures['rate']:.0f}/s, load {os.getloadavg()[0]:.1f}",
                file=sys.stderr,
            )
    rows = [
        (f"{files:,}", engine, workers, f"{it['seconds']:.1f}", f"{it['rate']:.0f}", f"{it['cpu'] / it['images'] * 1000:.1f}",
         f"{it['parent_ms']:.2f}", f"{it['peak'] / 2**20:.0f}", it["digest"][:8])
        for (files, engine, workers), it in found.items()
    ]  # fmt: skip
    head = ("files", "engine", "processes", "seconds", "files/s", "all, CPU ms per file", "parent, CPU ms per file", "peak, MiB", "digest")  # fmt: skip
    print(table(head, rows))
    one_, two, many = list(found.values())[:3]
    print(f"\ntwo processes / one: {two['rate'] / one_['rate']:.2f}")
    print(f"memory, {options.files:,} files / {few:,}: {many['peak'] / two['peak']:.2f}")
    if not options.no_ray:
        ray = found[options.files, "ray", 2]
        print(f"Ray / local: {ray['rate'] / many['rate']:.2f}")
        assert ray["digest"] == many["digest"], "the engines differ"


if __name__ == "__main__":
    main()
