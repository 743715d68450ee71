"""The floor: decode, prepare and bare runtime in one process, no HTTP. Orders on stdin, times on stdout.

    python benchmarks/serve/floor.py PACKAGE [WORD...]

An order is one JSON line: files, count, threads. WORDs go to the runtime (precision).
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime


def main() -> None:
    package = open_package(Path(sys.argv[1]))
    runtime = Runtime(package, threads=1)
    contract = package.contract
    kept: dict[str, bytes] = {}

    def once(file: str) -> tuple[float, tuple[float, ...], float]:
        began = time.perf_counter()
        instance = read(kept[file], contract)
        decoded = time.perf_counter()
        pixels = prepare(instance, contract).pixels
        ready = time.perf_counter()
        logits = runtime.run(pixels[None]).logits
        ended = time.perf_counter()
        return ended - began, (decoded - began, ready - decoded, ended - ready), float(logits[0, 0])

    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        files = order["files"]
        for file in files:
            kept[file] = kept.get(file) or Path(file).read_bytes()
        cpu, wall = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(order["threads"]) as pool:
            found = list(pool.map(once, (files[k % len(files)] for k in range(order["count"]))))
        told = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "seconds": [one[0] for one in found],
            "stages": [sum(one[1][k] for one in found) / len(found) for k in range(3)],
            "logits": [one[2] for one in found],
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
