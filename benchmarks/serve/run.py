"""Ours, three peers and the floor under the same load: one network, real bodies, interleaved, CPU time.

    python benchmarks/serve/run.py --out FOLDER [--network resnet18] [--servers ours,floor,...]
        [--bodies jpeg512,...] [--at-once 1,8,32] [--rounds 3] [--count 16] [--quick] [--fresh]

Needs ../shared/data/fundus_rahim; without it the benchmark says so and ends with 77. FOLDER keeps the
trained networks, the bodies and every turn: a run that was stopped goes on, a run with more rounds adds
to what is there. In a turn every server gets the same requests, one server after the other; ratios are
of one turn, the table has their medians. CPU time is that of all processes of a server.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import servers  # noqa: E402
from bodies import bodies  # noqa: E402
from load import FailedError, Floor, Measured, measure  # noqa: E402
from network import NETWORKS, PHOTOGRAPHS, reduced, trained  # noqa: E402
from stages import stages  # noqa: E402
from tables import bars, speeds  # noqa: E402
from verdicts import verdicts  # noqa: E402

START = {
    "ours": servers.ours,
    "ours-bf16": lambda package, out: servers.ours(
        package, out, "--runtime", "openvino", "--precision", "bf16", name="hilum-bf16"
    ),
    "ours-int8": lambda package, out: servers.ours(
        package, out, "--runtime", "openvino", "--precision", "int8", name="hilum-int8"
    ),
    "mlflow": servers.mlflow,
    "fastapi": servers.fastapi,
    "litserve": servers.litserve,
    "floor": lambda package, _: Floor(package),
}
ORDINARY = ("ours", "mlflow", "fastapi", "litserve", "floor")
"""What needs no package with reduced precisions: those ask for `--servers ...,ours-bf16,ours-int8`."""

CORES = len(os.sched_getaffinity(0))


def words_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    split = {"type": lambda text: text.split(",")}
    parser.add_argument("--out", type=Path, default=ROOT / "bench-serve")
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--servers", default=list(ORDINARY), **split)
    parser.add_argument("--bodies", default=["jpeg512", "jpeg6mp", "png512", "dicom8mb"], **split)
    parser.add_argument("--at-once", default=["1", "8", "32"], **split)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=16, help="requests of a turn, at least")
    parser.add_argument("--photographs", type=int, default=60, help="compared for equal verdicts")
    parser.add_argument("--quick", action="store_true", help="one round, at 8 at once")
    parser.add_argument("--fresh", action="store_true", help="forget earlier turns")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.at_once, options.photographs = 1, ["8"], 12
    return options


def main() -> int:
    """Measure and print."""
    options = words_of()
    if not PHOTOGRAPHS.is_dir():
        print("needs the photographs of ../shared/data/fundus_rahim", file=sys.stderr)
        return 77
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    package = trained(options.out, options.network)
    if {"ours-bf16", "ours-int8"} & set(options.servers):
        package = reduced(options.out, options.network)
    kept = options.out / f"turns-{options.network}.jsonl"
    if options.fresh:
        kept.unlink(missing_ok=True)
    # servers have process groups of their own: whoever ends this script ends them, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = {}
    try:
        for name in options.servers:
            try:
                started[name] = START[name](package, options.out)
            except SystemExit as error:  # a precision that the package's evidence doesn't allow
                print(f"left out: {error}", flush=True)
        for server in started.values():
            if not isinstance(server, Floor):
                server.look()
        turns = take_turns(options, started, kept)
        print(f"\n## {options.network}\n\n{speeds(turns)}\n\n{bars(turns)}")
        print("\n" + verdicts(started, options.photographs))
        large = [kind for kind in options.bodies if kind in ("jpeg6mp", "dicom8mb")]
        if "ours" in started and "floor" in started and large:
            print("\n" + stages(started["ours"], started["floor"], options.out, large))
    finally:
        for server in started.values():
            server.stop()
    return 0


def take_turns(options, started, kept: Path) -> list[dict]:
    """Take the turns that aren't kept yet; return all of the wanted ones."""
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    wanted = [turn for turn in done if set(options.servers) <= set(turn["asked"])]
    for number in range(options.rounds):
        for kind in options.bodies:
            files = bodies(options.out, kind)
            data = [file.read_bytes() for file in files]
            for at_once in map(int, options.at_once):
                key = {"body": kind, "at_once": at_once, "round": number}
                if any(all(turn[k] == v for k, v in key.items()) for turn in wanted):
                    continue
                turn = {**key, "load": os.getloadavg()[0], "asked": options.servers, "servers": {}}
                count = max(options.count, at_once)
                for name in in_turn(list(started), number):
                    try:
                        found = asked(started[name], files, data, count, at_once)
                    except (FailedError, OSError) as error:
                        print(f"no figure: {error}", flush=True)
                        continue
                    turn["servers"][name] = {
                        "cpu": found.cpu, "wall": found.wall, "count": found.count,
                        "seconds": found.seconds,
                    }  # fmt: skip
                wanted.append(turn)
                with kept.open("a") as stream:
                    stream.write(json.dumps(turn) + "\n")
                told = ", ".join(f"{n} {1000 * s['cpu']:.1f}" for n, s in turn["servers"].items())
                print(f"{kind} x {at_once}, round {number}: CPU ms {told}", flush=True)
    asked_for = {(kind, int(c)) for kind in options.bodies for c in options.at_once}
    return [turn for turn in wanted if (turn["body"], turn["at_once"]) in asked_for]


def in_turn(names: list[str], number: int) -> list[str]:
    # who comes first changes from round to round
    shift = number % len(names)
    return names[shift:] + names[:shift]


def asked(server, files, data, count: int, at_once: int) -> Measured:
    """Measure one server once; the first requests of a kind aren't counted."""
    if isinstance(server, Floor):
        server.measure(files, 2, 1)
        # as many threads as ours has for the network: one for each core
        return server.measure(files, count, min(at_once, CORES))
    measure(server, data, min(at_once, 4), min(at_once, 4))
    return measure(server, data, count, at_once)


if __name__ == "__main__":
    sys.exit(main())
