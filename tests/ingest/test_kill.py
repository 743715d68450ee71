"""SIGKILL at random moments of an ingestion: the same command again ends in the same data set.

The normal suite runs a short form; ``make test-kill`` the full one: 20 kills over 1,000 files.
"""

import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.ingest.store import open_dataset
from tests.ingest.conftest import dicom

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("HILUM_KILLS", "3"))
FILES = int(os.environ.get("HILUM_KILL_FILES", "150"))
SECRET = {"HILUM_PSEUDONYM_KEY": "0123456789abcdef", "OMP_NUM_THREADS": "1"}


def draw_archive(folder: Path, count: int) -> Path:
    """Draw ``count`` files of every kind that ends differently, and their label table."""
    rows = []
    draw = np.random.default_rng(7)
    for k in range(count):
        pixels = draw.integers(0, 255, (8, 12, 3), np.uint8).repeat(24, 0).repeat(24, 1)
        pixels[:: 2 + k % 5] ^= 16
        name = f"{k % 10}/{k}"
        stream = io.BytesIO()
        kind = k % 8
        if kind == 0:
            data = dicom(pixels, f"MRN-{k // 3}")
        elif kind == 1:
            data = b"a letter, not a picture " + bytes([k % 256])
        else:
            Image.fromarray(pixels).save(stream, "JPEG" if kind < 6 else "PNG", quality=90)
            data = stream.getvalue()
            data = data[: len(data) // 2] if kind == 7 and k % 3 == 0 else data
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if k % 50 == 10:  # the same pixels under two names
            path.write_bytes((folder / f"{(k - 8) % 10}/{k - 8}").read_bytes())
        if k % 40:
            rows.append({"image": name, "patient": f"P{k // 3}", "grade": k % 4})
    table = folder / "labels.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def start(source: Path, table: Path, out: Path) -> "subprocess.Popen[str]":
    words = ["ingest", str(source), "--labels", str(table), "--out", str(out), "--set", "size=96"]
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", *words, "--name", "archive"],
        env=os.environ | SECRET | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def done(out: Path) -> int:
    """Return how many files the journal of an unfinished ingestion says are done."""
    try:
        return (out.parent / f".{out.name}.part/journal").read_bytes().count(b"\n") - 1
    except OSError:
        return 0


def wait_until(out: Path, process: "subprocess.Popen[str]", files: int) -> None:
    """Wait until so many files are done; for more than there are, into the writing of the shards."""
    while done(out) < min(files, FILES) and process.poll() is None:
        time.sleep(0.002)
    if files > FILES:
        time.sleep((files - FILES) / FILES)


def kill_once(
    source: Path, table: Path, out: Path, chance: random.Random, *, everything: bool
) -> None:
    """Start an ingestion and kill it before it ends: its parent alone, or all its processes at once."""
    while True:
        process = start(source, table, out)
        wait_until(out, process, chance.randint(done(out), FILES + FILES // 8))
        time.sleep(chance.uniform(0.0, 0.05))
        with suppress(ProcessLookupError):
            (os.killpg if everything else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + 20
        while living(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not living(process.pid), "workers outlived their parent"
        if process.returncode == -signal.SIGKILL:
            return
        shutil.rmtree(out)  # it was done before the moment came


def living(group: int) -> list[int]:
    """Return the processes of a session that are still there and no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def content(out: Path) -> tuple[object, ...]:
    """Return everything that must be equal: documents, tables and pixels."""
    tables = [
        pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("manifest", "refusals")
    ]
    pixels = [path.read_bytes() for path in sorted(out.glob("pixels-*.npy"))]
    return (out / "dataset.json").read_text(), *tables, *pixels


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_data_set(tmp_path):
    source = tmp_path / "archive"
    table = draw_archive(source, FILES)
    whole = start(source, table, tmp_path / "whole")
    _, told = whole.communicate(timeout=600)
    assert whole.returncode == 0, told
    expected = content(tmp_path / "whole")
    assert open_dataset(tmp_path / "whole").info.files_read == FILES
    chance = random.Random(FILES)  # noqa: S311
    resumed = 0
    for trial in range(KILLS):
        out = tmp_path / f"out{trial}"
        for _ in range(1 + trial % 2):
            kill_once(source, table, out, chance, everything=trial % 3 == 0)
        # on a quick machine few files leave little time: the first kill is tried until it comes between
        while trial == 0 and not 0 < done(out) < FILES:
            shutil.rmtree(out.with_name(f".{out.name}.part"), ignore_errors=True)
            kill_once(source, table, out, chance, everything=True)
        begun = done(out)
        resumed += 0 < begun < FILES
        process = start(source, table, out)
        _, told = process.communicate(timeout=600)
        assert process.returncode == 0, told
        assert content(out) == expected, f"trial {trial}, {begun} files were done"
        assert not list(tmp_path.glob(".out*.part"))
        print(f"\nkill {trial + 1}/{KILLS}: {begun} of {FILES} files were done, the same data set")  # noqa: T201
    assert resumed, "every kill came before the first file or after the last: none was tested"
