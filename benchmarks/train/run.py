"""Training speed: our loop against a bare loop and against MONAI's documented way. One thread.

    python benchmarks/train/run.py            # all of it, at most ten minutes
    python benchmarks/train/run.py --quick    # fewer rounds, one network: does it work?

Each variant has a process of its own; they take turns, epoch by epoch. Figures are medians of CPU
time (user and system, all threads), the wall clock beside them; ratios are medians over rounds. The
exit code is 1 if a bar is missed.
"""

import argparse
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
from paths import POLICY, Case, Store  # noqa: E402
from timing import table  # noqa: E402
from turns import in_turn, ratio  # noqa: E402

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

    def at_most(self, what: str, found: float, bar: float, digits: int = 2) -> None:
        self._add(what, f"{found:.{digits}f}", f"at most {bar:g}", found <= bar)

    def equal(self, what: str, found: set[str]) -> None:
        self._add(what, f"{len(found)} digest", "1", len(found) == 1)

    def _add(self, what: str, found: str, bar: str, reached: bool) -> None:
        self.rows.append((what, found, bar, "reached" if reached else "MISSED"))
        self.missed += not reached


def training(case: Case, folder: Path, rounds: int, verdicts: Verdicts) -> list[Row]:
    """Measure one network at one size."""
    found = in_turn(
        {
            "bare fp32": (paths.bare, folder, case, "fp32", True),
            "ours fp32": (paths.ours, folder, case, "fp32"),
            "bare bf16": (paths.bare, folder, case, "bf16", True),
            "ours bf16": (paths.ours, folder, case, "bf16"),
            "bare fp32, torch as it comes": (paths.bare, folder, case, "fp32", False),
            "MONAI fp32": (paths.monai, folder, case),
        },
        rounds,
    )
    where = f"{case.backbone}, {case.size} px"
    for precision in ("fp32", "bf16"):
        own = found[f"ours {precision}"]
        against = ratio(found[f"bare {precision}"], own)
        verdicts.at_least(f"{where}: ours / bare, {precision}", against, BARS["loop"][precision])
        against = ratio(found["MONAI fp32"], own)
        verdicts.at_least(f"{where}: ours {precision} / MONAI", against, BARS[case.size][precision])
        shares = [part / whole for part, whole in zip(own.answers, own.wall, strict=True)]
        waited = 100 * statistics.median(shares)
        verdicts.at_most(f"{where}: waiting for data, {precision}, %", waited, BARS["waiting"])
        step_ms = 1000 * statistics.median(own.cpu) * case.batch / case.images
        share = 100 * tracking.ms_per_step() / step_ms
        verdicts.at_most(
            f"{where}: tracking, {precision}, % of the step", share, BARS["tracking"], digits=3
        )
    return [
        (
            case.backbone,
            case.size,
            name,
            f"{case.images / statistics.median(times.cpu):.1f}",
            f"{case.images / statistics.median(times.wall):.1f}",
            f"{1000 * statistics.median(times.cpu) / case.images:.2f}",
            f"{ratio(found['bare fp32'], times):.2f}",
            f"{ratio(found['MONAI fp32'], times):.2f}",
        )
        for name, times in found.items()
    ]


def ours_alone(folder: Path, case: Case, norm: bool) -> Callable[[], object]:
    """Return our changes of all images, from the store; with ``norm`` to normalised pictures."""
    torch.set_num_threads(1)
    store, change = Store(folder, case), augment.policy(paths.POLICY, 0)
    mean, spread = (torch.tensor(values) * 255 for values in (paths.MEAN, paths.SPREAD))

    def work() -> None:
        for rows in case.batches():
            images = torch.from_numpy(change(store.pixels(rows), rows, 1))
            if norm:
                ((images.float() - mean) / spread).permute(0, 3, 1, 2)

    return work


def theirs_alone(folder: Path, case: Case, norm: bool) -> Callable[[], object]:
    """Return MONAI's changes of all images, from the same store."""
    torch.set_num_threads(1)
    store, compose = Store(folder, case), paths.monai_changes(norm=norm)

    def work() -> None:
        for rows in case.batches():
            images = np.ascontiguousarray(store.pixels(rows).transpose(0, 3, 1, 2))
            torch.stack([compose({"image": image})["image"] for image in images])

    return work


def augmentation(folder: Path, rounds: int, verdicts: Verdicts) -> list[Row]:
    """Measure the changes alone at 224 px."""
    case = Case("none", 224, 32, 128)
    found = in_turn(
        {
            "ours: uint8, as the loop takes them": (ours_alone, folder, case, False),
            "MONAI Compose": (theirs_alone, folder, case, False),
            "ours, and the network's normalisation": (ours_alone, folder, case, True),
            "MONAI Compose, NormalizeIntensityd last": (theirs_alone, folder, case, True),
        },
        rounds,
    )
    ours, theirs, *_ = found.values()
    verdicts.at_least(
        "augmentation at 224 px: ours / MONAI", ratio(theirs, ours), BARS["augmentation"]
    )
    store, ids, change = Store(folder, case), np.arange(case.images), augment.policy(POLICY, 0)
    made = [augment.spread(change, threads)(store.pixels(ids), ids, 1) for threads in (1, 2, 3, 7)]
    digests = {hashlib.sha256(images.tobytes()).hexdigest() for images in made}
    verdicts.equal("augmentation by 1, 2, 3 and 7 threads", digests)
    return [
        (
            name,
            f"{1000 * statistics.median(times.cpu) / case.images:.2f}",
            f"{case.images / statistics.median(times.cpu):.0f}",
        )
        for name, times in found.items()
    ]


def main() -> int:
    """Print the tables; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the first network")
    parser.add_argument("--rounds", type=int, default=0, help="measured rounds (default: 5)")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    cases = [case for case in CASES if case.backbone == "resnet18" or not options.quick]
    verdicts, rows, started = Verdicts(), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
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
        f"\n{rounds} rounds; {time.perf_counter() - started:.0f} s; {verdicts.missed} bars missed"
    )
    return 1 if verdicts.missed else 0


if __name__ == "__main__":
    sys.exit(main())
