"""Five folds by patient on 589 real photographs of the retina, by the plan of `hilum plan`, untouched.

    python benchmarks/fundus/run.py [--out FOLDER] [--table]

Referable is grade 2 or more: the output column "grade 2 or a later one". The quality gate is off: it
would leave out the hardest photographs, and the floors were measured with them. Results and runs are kept
in FOLDER; a killed benchmark goes on with the fold it was in. --table prints what is kept there.
"""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

from calling import SHARED, Place  # noqa: E402
from timing import table  # noqa: E402

from data_schemas.files import write_text  # noqa: E402
from pipeline.ingest.store import open_dataset  # noqa: E402

SOURCE = SHARED / "fundus_rahim"
FOLDS = 5
BUDGET_S = 90 * 60
REFERABLE, ANY, ECE = "auc/dr_grade_ge2", "auc/dr_grade_ge1", "ece/dr_grade_ge2"
KAPPA, MEDIAN = "kappa/dr_grade", "kappa_median/dr_grade"
FLOORS = (
    ("frozen lite0 features, logistic regression", "0.885", "0.794", "0.624", "0.601 (likeliest)"),
    ("first network fine-tuned by hand", "0.957", "0.877", "0.761", "0.749"),
    ("to reach", "0.955", "", "0.750", ""),
    ("to aim at", "0.970", "", "0.800", ""),
)
"""Measured before hilum trained anything, on the same images in folds of the same kind."""


def main() -> None:
    """Ingest, plan, train five folds, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-fundus"), help="results and runs"
    )
    parser.add_argument("--table", action="store_true", help="print what is kept, train nothing")
    options = parser.parse_args()
    options.out = options.out.resolve()
    place = Place(options.out)
    kept = options.out / "result.json"
    if not options.table and not kept.is_file():
        write_text(kept, json.dumps(measured(place), indent=2))
    if not kept.is_file():
        raise SystemExit(f"{kept}: nothing was measured yet")
    print(page(json.loads(kept.read_text()), options.out / "set"))


def measured(place: Place) -> dict[str, Any]:
    """Return what the cross-validation gave, and what it took."""
    if not SOURCE.is_dir():
        raise SystemExit("needs ../shared/data/fundus_rahim")
    dataset = place.folder / "set"
    if not (dataset / "dataset.json").is_file():
        # nothing is sealed: each image is somebody's test image; the shares only tell the plan's
        # maker how many images a fold will have to learn and to choose on
        place.hilum("ingest", SOURCE / "images", "--labels", SOURCE / "labels.csv", "--label", "dr_grade",
                    "--ordinal", "dr_grade=0,1,2,3,4", "--contract", "fundus",
                    "--set", "quality.check=false", "--out", dataset,
                    "--shares", "train=.85,tune=.05,calibration=.1", "--split", "stratified",
                    "--folds", FOLDS, "--key-file", place.key(), "--name", "fundus_rahim")  # fmt: skip
    if not (dataset / "plan.yaml").is_file():
        place.hilum("plan", dataset)
    call = place.train("fundus_rahim", dataset, "--folds", FOLDS)
    return {**call.answer, "call_wall_s": call.wall_s, "call_cpu_s": call.cpu_s}


def page(result: dict[str, Any], dataset: Path) -> str:
    """Return the tables: all folds together beside the floors, each fold, what was left out."""
    pooled, folds = result["pooled"], result["folds"]
    ours = (
        "hilum, automatic plan",
        *(_interval(pooled[key]) for key in (REFERABLE, ANY, KAPPA, MEDIAN)),
    )
    head = ("", "referable DR, AUC", "any DR, AUC", "kappa, mean grade", "kappa, median grade")
    each = [
        (
            one["fold"],
            f"{one['images']:.0f} of {one['patients']:.0f}",
            *(f"{one[key]:.3f}" for key in (REFERABLE, ANY, KAPPA)),
            one["best_epoch"],
            f"{one['seconds'] / 60:.1f}",
        )
        for one in folds
    ]
    columns = ("fold", "images of patients", "referable", "any DR", "kappa", "epoch", "minutes")
    within = "within" if result["seconds"] <= BUDGET_S else "OVER"
    images, patients = (sum(one[name] for one in folds) for name in ("images", "patients"))
    return f"""{table(head, [*FLOORS, ours])}

{images:.0f} images of {patients:.0f} patients, each answered once; 95 % by patient. Kappa has \
quadratic weights; the model's answer is the mean grade, rounded. ECE of referable, 15 bins of equal mass: {_interval(pooled[ECE])}.

{table(columns, each)}

All folds: {result["seconds"] / 60:.1f} min of training ({within} {BUDGET_S / 60:.0f} min); the call \
that ended it took {result["call_wall_s"] / 60:.1f} min, {result["call_cpu_s"] / 60:.1f} min of CPU.

{left_out(dataset)}"""


def left_out(dataset: Path) -> str:
    """Return a table of the photographs that never reached a fold, by reason."""
    opened = open_dataset(dataset)
    with (SOURCE / "labels.csv").open(encoding="utf-8") as stream:
        by_line = dict(enumerate(csv.DictReader(stream), start=2))
    rows: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for refused in opened.refusals():
        row = by_line.get(refused["label_line"])
        name = row["image"].removeprefix("images/") if row else refused["source_sha256"][:12]
        rows.setdefault(refused["code"], []).append(name)
        reasons.setdefault(refused["code"], refused["reason"])
    unknown = opened.info.images - sum(opened.info.labels[0].counts)
    lines = [
        (code, len(names), reasons[code], ", ".join(sorted(names)[:12]) + (" ..." if len(names) > 12 else ""))
        for code, names in sorted(rows.items())
    ]  # fmt: skip
    if unknown:
        lines.append(("stored without a grade", unknown, "`dr_grade` is empty: advanced diabetic eye disease", ""))  # fmt: skip
    return "Left out:\n\n" + table(("code", "files", "reason of the first", "files"), lines)


def _interval(one: dict[str, Any]) -> str:
    limits = "" if one["low"] is None else f" ({one['low']:.3f}-{one['high']:.3f})"
    return f"{one['value']:.3f}{limits}"


if __name__ == "__main__":
    main()
