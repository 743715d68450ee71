"""The receipt log: time to verify 100,000 lines, what of 1,000 changes is found, what one line costs.

python benchmarks/receipts/run.py [--lines 100000] [--changes 1000] [--folder FOLDER]
"""

import argparse
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.receipts.changes import CHANGES, changed  # noqa: E402
from data_schemas.receipt import FIRST, Key, Receipt, line_of  # noqa: E402
from services.inference.journal import Journal  # noqa: E402
from services.inference.receipt_check import verify_log  # noqa: E402
from services.inference.receipt_files import files_of  # noqa: E402
from services.inference.receipts import Receipts  # noqa: E402

SMALL = 500
WRITER = (
    "import pathlib, sys; sys.path.insert(0, '.')\n"
    "from benchmarks.receipts.run import cost_of\n"
    "print(*cost_of(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))\n"
)


def receipt(name):
    return Receipt(
        score_id=f"00000000-0000-4000-8000-{name:012d}",
        time="2026-01-01T00:00:00.000Z",
        model_name="fundus",
        model_version="3",
        package_sha256="a" * 64,
        contract_sha256="b" * 64,
        runtime="onnxruntime 1.32.0 fp32",
        input_sha256="c" * 64,
        prepared_sha256="d" * 64,
        output_sha256="e" * 64,
        operating_point="default",
    )


def opened(folder, rotate_bytes=2**26):
    return Receipts(folder, Journal(io.StringIO()), key=Key(bytes(32)), rotate_bytes=rotate_bytes)


def write(folder, count, rotate_bytes):
    """Write a log; flushing each line would only measure the disk here."""
    flush, os.fdatasync = os.fdatasync, lambda _: None
    try:
        log = opened(folder, rotate_bytes)
        for number in range(count):
            log.append(receipt(number))
        log.close()
    finally:
        os.fdatasync = flush


def cost_of(folder, threads, count):
    """Return (CPU s, wall s, flushes) of ``threads`` writers with ``count`` lines each."""
    flushes = [0]
    flush = os.fdatasync

    def counted(handle):
        flushes[0] += 1
        flush(handle)

    os.fdatasync = counted
    log = opened(folder)
    writers = [
        threading.Thread(target=lambda: [log.append(receipt(n)) for n in range(count)])
        for _ in range(threads)
    ]
    cpu, wall = time.process_time(), time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return time.process_time() - cpu, time.perf_counter() - wall, flushes[0]


def verification(folder, lines):
    write(folder, lines, 2**24)
    cpu, wall = time.process_time(), time.perf_counter()
    found = verify_log(folder, keys=[Key(bytes(32))])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"verify {found.receipts:,} receipts in {found.files} files, with seals:"
        f" {wall:.2f} s, {cpu:.2f} s CPU, {len(found.flaws)} flaws"
    )


def findings(folder, changes):
    write(folder, SMALL, 2**16)
    for kind in CHANGES:
        chance = random.Random(kind)  # noqa: S311 - which byte, not a secret
        found = 0
        for _ in range(changes):
            with changed(folder, kind, chance):
                found += bool(verify_log(folder).flaws)
        print(f"{kind + 's':<12}{found}/{changes} found, each alone in a log of {SMALL} lines")


def places(folder, changes):
    """Many edits at once in the long log, each in a line of its own: is every line named?"""
    chance = random.Random("places")  # noqa: S311
    lines = []
    for path in files_of(folder):
        count = path.read_bytes().count(b"\n")
        lines += [(path, number) for number in range(2, count, 3)]
    chosen = chance.sample(lines, min(changes, len(lines)))
    for path in {path for path, _ in chosen}:
        rows = path.read_bytes().splitlines(keepends=True)
        for number in (number for one, number in chosen if one == path):
            at = chance.randrange(len(rows[number]) - 1)
            byte = rows[number][at] ^ chance.randrange(1, 10)
            rows[number] = rows[number][:at] + bytes([byte]) + rows[number][at + 1 :]
        path.write_bytes(b"".join(rows))
    named = {(flaw.file, flaw.line) for flaw in verify_log(folder).flaws}
    met = sum((str(path), number + 1) in named for path, number in chosen)
    print(f"{met}/{len(chosen)} edits named by file and line, all at once in the long log")


def costs(folder, count):
    fields = receipt(0).model_dump(mode="json")
    cpu = time.process_time()
    for number in range(20_000):
        line_of("receipt", fields, number, FIRST, None)
    print(f"making a line: {(time.process_time() - cpu) / 20_000 * 1e6:.0f} us CPU")
    write_only = time.process_time()
    write(folder / "unflushed", 4000, 2**26)
    spent = (time.process_time() - write_only) / 4000 * 1e6
    print(f"append without the flush: {spent:.0f} us CPU")
    print("processes x threads   us CPU a receipt   receipts/s   flushes/s   receipts a flush")
    for processes, threads in ((1, 1), (1, 8), (2, 4), (8, 1)):
        place = folder / f"{processes}-{threads}"
        children = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(place), str(threads), str(count)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        told = [tuple(map(float, child.communicate()[0].split())) for child in children]
        total = processes * threads * count
        cpu, wall, flushes = (
            sum(t[0] for t in told),
            max(t[1] for t in told),
            sum(t[2] for t in told),
        )
        print(
            f"{processes:>9} x {threads:<9}{cpu / total * 1e6:>16.0f}{total / wall:>15.0f}"
            f"{flushes / wall:>12.0f}{total / flushes:>15.1f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--count", type=int, default=400, help="lines of each writer")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hilum-receipts-", dir=options.folder))
    try:
        costs(folder / "costs", options.count)
        verification(folder / "long", options.lines)
        findings(folder / "small", options.changes)
        places(folder / "long", options.changes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
