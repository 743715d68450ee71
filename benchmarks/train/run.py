"""Training speed: our loop against a bare loop and against MONAI's documented way. One thread.

    python benchmarks/train/run.py            # all of it, at most ten minutes
    python benchmarks/train/run.py --quick    # fewer rounds, one network: does it work?

Variants run in turn, epoch by epoch; every figure is a median of CPU time (user and system, all
threads of the process), the wall clock beside it. The exit code is 1 if a bar is missed.
"""

import argparse
import contextlib
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "benchmarks/train")]

import paths  # noqa: E402
import tracking  # noqa: E402
from paths import Case, Ours, Store  # noqa: E402
from timing import table  # noqa: E402

from pipeline.train import augment  # noqa: E402

CASES = (
    Case("resnet18", 28, 128, 1024),
    Case("efficientnet_lite0", 28, 128, 1024),
    Case("resnet18", 224, 16, 32),
    Case("efficientnet_lite0", 224, 16, 32),
)
BARS = {
    "loop": {"fp32": 0.97, "bf16": 0.95},
    28: {"fp32": 2.2, "bf16": 3.0},
    224: {"fp32": 1.2, "bf16": 2.3},
    "augmentation": 6.0,
    "waiting": 2.0,
    "tracking": 1.0,
}
Row = tuple[object, ...]


class Verdicts:
    """What each bar asks, what was found, and whether it is reached."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.missed = 0

    def at_least(self, what: str, found: float, bar: float) -> None:
        self._add(what, f"{found:.2f}", f"at least {bar:g}", found >= bar)

    def at_most(self, what: str, found: float, bar: float) -> None:
        self._add(what, f"{found:.2f}", f"at most {bar:g}", found <= bar)

    def equal(self, what: str, found: set[str]) -> None:
        self._add(what, f"{len(found)} digest", "1", len(found) == 1)

    def _add(self, what: str, found: str, bar: str, reached: bool) -> None:
        self.rows.append((what, found, bar, "reached" if reached else "MISSED"))
        self.missed += not reached


def in_turn(
    variants: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return CPU and wall seconds of every round of each variant, after one unmeasured round."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    clock: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, work in variants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            if turn:
                spent[name].append(time.process_time() - cpu)
                clock[name].append(time.perf_counter() - wall)
    return spent, clock


def ratio(spent: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return how much more one variant costs than another: median of the rounds' own ratios.

    Rounds are neighbours in time, so what else the machine does weighs on both.
    """
    pairs = zip(spent[slow], spent[fast], strict=True)
    return statistics.median(one / other for one, other in pairs)


def training(case: Case, folder: Path, rounds: int, verdicts: Verdicts) -> list[Row]:
    """Measure one network at one size."""
    store = Store(folder, case)
    ours = {precision: Ours(case, store, precision) for precision in ("fp32", "bf16")}
    variants: dict[str, Callable[[], object]] = {
        "bare fp32": paths.bare(case, store, "fp32"),
        "ours fp32": ours["fp32"],
        "bare bf16": paths.bare(case, store, "bf16"),
        "ours bf16": ours["bf16"],
        "MONAI fp32": paths.monai(case, store, folder),
    }
    spent, clock = in_turn(variants, rounds)
    where = f"{case.backbone}, {case.size} px"
    for precision, loop in ours.items():
        own = f"ours {precision}"
        against = ratio(spent, f"bare {precision}", own)
        verdicts.at_least(f"{where}: ours / bare, {precision}", against, BARS["loop"][precision])
        against = ratio(spent, "MONAI fp32", own)
        verdicts.at_least(f"{where}: ours {precision} / MONAI", against, BARS[case.size][precision])
        waited = 100 * statistics.median(
            part / whole for part, whole in zip(loop.waited_s[1:], clock[own], strict=True)
        )
        verdicts.at_most(f"{where}: waiting for data, {precision}, %", waited, BARS["waiting"])
        cost = tracking.ms_per_step()
        step_ms = 1000 * statistics.median(spent[own]) * case.batch / case.images
        verdicts.at_most(
            f"{where}: tracking, {precision}, % of the step", 100 * cost / step_ms, BARS["tracking"]
        )
    return [
        (
            case.backbone,
            case.size,
            name,
            f"{case.images / statistics.median(spent[name]):.1f}",
            f"{case.images / statistics.median(clock[name]):.1f}",
            f"{1000 * statistics.median(spent[name]) / case.images:.2f}",
            f"{ratio(spent, 'bare fp32', name):.2f}",
            f"{ratio(spent, 'MONAI fp32', name):.2f}",
        )
        for name in variants
    ]


def augmentation(folder: Path, rounds: int, verdicts: Verdicts) -> list[Row]:
    """Measure the changes alone at 224 px, from the store to normalised pictures."""
    case = Case("none", 224, 32, 128)
    store, ids = Store(folder, case), np.arange(case.images)
    mean, spread = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    change = augment.policy(paths.POLICY, 0)
    batches = np.array_split(ids, case.images // case.batch)

    def ours() -> list[torch.Tensor]:
        return [torch.from_numpy(change(store.pixels(rows), rows, 1)) for rows in batches]

    def ours_normalised() -> None:
        for rows in batches:
            images = torch.from_numpy(change(store.pixels(rows), rows, 1))
            ((images.float() - mean) / spread).permute(0, 3, 1, 2)

    def theirs(compose: Callable[[object], dict[str, torch.Tensor]]) -> None:
        for rows in batches:
            images = np.ascontiguousarray(store.pixels(rows).transpose(0, 3, 1, 2))
            torch.stack([compose({"image": image})["image"] for image in images])

    variants = {
        "ours: uint8, as the loop takes them": ours,
        "MONAI Compose": lambda: theirs(paths.monai_changes()),
        "ours, and the network's normalisation": ours_normalised,
        "MONAI Compose, NormalizeIntensityd last": lambda: theirs(paths.monai_changes(norm=True)),
    }
    spent, _ = in_turn(variants, rounds)
    verdicts.at_least(
        "augmentation at 224 px: ours / MONAI",
        ratio(spent, "MONAI Compose", next(iter(variants))),
        BARS["augmentation"],
    )
    made = {
        hashlib.sha256(
            augment.spread(change, threads)(store.pixels(ids), ids, 1).tobytes()
        ).hexdigest()
        for threads in (1, 2, 3, 7)
    }
    verdicts.equal("augmentation by 1, 2, 3 and 7 threads", made)
    return [
        (
            name,
            f"{1000 * statistics.median(times) / case.images:.2f}",
            f"{case.images / statistics.median(times):.0f}",
        )
        for name, times in spent.items()
    ]


def main() -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the first network")
    parser.add_argument("--rounds", type=int, default=0, help="measured rounds (default: 7)")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 7)
    cases = [case for case in CASES if case.backbone == "resnet18" or not options.quick]
    verdicts, rows, started = Verdicts(), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, paths.one_thread():
        folder = Path(scratch)
        with contextlib.redirect_stdout(sys.stderr):
            alone = augmentation(folder, rounds, verdicts)
            for case in cases:
                rows += training(case, folder, rounds, verdicts)
    print(table(("augmentation at 224 px", "CPU ms / image", "images / CPU s"), alone))
    print()
    head = ("network", "px", "variant", "images / CPU s", "images / s", "CPU ms / image")
    print(table((*head, "bare fp32 / it", "MONAI / it"), rows))
    print()
    print(table(("what", "found", "bar", "verdict"), verdicts.rows))
    print(
        f"\n{rounds} rounds, {time.perf_counter() - started:.0f} s; {verdicts.missed} bars missed"
    )
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())
