"""RetinaMNIST, BreastMNIST and PneumoniaMNIST at 28 px, by the plan of `hilum plan`, untouched.

    python benchmarks/medmnist/run.py [--sets retina,breast,pneumonia] [--seeds 3] [--out FOLDER]
    python benchmarks/medmnist/run.py --table

Official splits and scoring (medmnist 3.0.2); the official validation images, by halves, choose the
epoch (tune) and calibrate (calibration). The seed is the only setting. Every (set, seed) is kept in
FOLDER as soon as it is measured; a killed benchmark goes on with the training it was in. --table
prints what is kept there.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1]), str(HERE.parent)]

from calling import SHARED, Place  # noqa: E402
from scoring import Answers, copies, score  # noqa: E402
from timing import table  # noqa: E402

from data_schemas.files import replacing, sha256_of_file, write_text  # noqa: E402
from pipeline.evaluate.statistics import official_accuracy, official_auc  # noqa: E402

BUDGET_S = 30 * 60
SETS = ("retina", "breast", "pneumonia")
WITH_COPIES = ("breast",)
"""Plain correlation tells copies of ultrasound pictures; photographs of different retinas share their
dark corners and reach 0.99, too."""
PUBLISHED = (
    # MedMNIST v2 (Yang et al. 2023), trained on 28 px
    ("ResNet-18 (28)", "0.717 / 0.524", "0.901 / 0.863", "0.944 / 0.854"),
    ("ResNet-50 (28)", "0.726 / 0.528", "0.857 / 0.812", "0.948 / 0.854"),
    ("auto-sklearn", "0.690 / 0.515", "0.836 / 0.803", "0.942 / 0.855"),
    ("AutoKeras", "0.719 / 0.503", "0.871 / 0.831", "0.947 / 0.878"),
    ("Google AutoML Vision", "0.750 / 0.531", "0.919 / 0.861", "0.991 / 0.946"),
    # MedMNIST+ (Doerrich et al. 2025), ImageNet weights, 28 px, mean of three seeds
    ("VGG16, end to end", "0.754 / 0.542", "0.875 / 0.853", "0.970 / 0.848"),
    ("AlexNet, end to end", "0.728 / 0.518", "0.891 / 0.865", "0.959 / 0.851"),
    ("ResNet-18, end to end", "0.704 / 0.523", "0.876 / 0.840", "0.950 / 0.831"),
    ("DINO ViT-B/16, linear", "0.720 / 0.521", "0.868 / 0.833", "0.973 / 0.866"),
    ("to reach", "0.754 / 0.543", "0.901 / 0.865", "0.973 / 0.878"),
    ("to aim at", "0.773 / 0.561", "0.938 / 0.897", "0.995 / 0.946"),
)
"""Test AUC / ACC of others, from 28 px."""


def main() -> None:
    """Train and measure what is not kept yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--sets", default=",".join(SETS), help="which, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="so many trainings of each")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark-medmnist"), help="results and runs"
    )
    parser.add_argument("--table", action="store_true", help="print what is kept, train nothing")
    options = parser.parse_args()
    names = options.sets.split(",")
    if not names or not set(names) <= set(SETS) or options.seeds < 1:
        parser.error(f"--sets: some of {', '.join(SETS)}; --seeds: 1 or more")
    place = Place(options.out.resolve())
    if not options.table:
        # one seed of each set first: a benchmark that is cut short says something of all
        for seed in range(options.seeds):
            for name in names:
                measure(place, name, seed)
    print(page(place, names))


def measure(place: Place, name: str, seed: int) -> None:
    """Train one network of a set, measure it on the official test split, keep both; unless it is done."""
    kept = result_file(place, name, seed)
    if kept.is_file():
        return
    dataset = planned(place, name)
    trained = kept.with_suffix(".trained.json")
    if not trained.is_file():
        call = place.train(f"{name}-seed{seed}", dataset, "--set", f"seed={seed}")
        answer = {**call.answer, "wall_s": call.wall_s, "cpu_s": call.cpu_s}
        write_text(trained, json.dumps(answer, indent=2))
    training = json.loads(trained.read_text())
    evaluation = place.hilum("evaluate", training["run_id"], "--dataset", dataset).answer
    answers_file = kept.with_suffix(".npz")
    keep_answers(place, name, training["run_id"], answers_file)
    result = {
        "set": name,
        "seed": seed,
        "plan_sha256": sha256_of_file(dataset / "plan.yaml"),
        "training": training,
        "statistics": evaluation["statistics"],
        "notes": evaluation["notes"],
    }
    write_text(kept, json.dumps(result, indent=2))


def planned(place: Place, name: str) -> Path:
    """Return the set's folder, with the plan as `hilum plan` writes it."""
    source = SHARED / f"medmnist/{name}mnist.npz"
    if not source.is_file():
        raise SystemExit(f"needs ../shared/data/medmnist/{source.name}")
    dataset = place.folder / "sets" / name
    if not (dataset / "dataset.json").is_file():
        place.hilum("ingest", source, "--out", dataset, "--key-file", place.key())
    if not (dataset / "plan.yaml").is_file():
        place.hilum("plan", dataset)
    return dataset


def keep_answers(place: Place, name: str, run_id: str, file: Path) -> None:
    """Keep truth and calibrated class probabilities of every test image, and which are copies."""
    import pyarrow.parquet as pq

    from data_schemas.card import Card
    from pipeline.model import decision
    from pipeline.tracking.finding import download

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        card = Card.read_json(download(place.uri, run_id, "package/card.json", folder))
        rows = pq.read_table(download(place.uri, run_id, "evaluation/predictions.parquet", folder))
    logits = np.array(rows["logits"].to_pylist(), np.float32)
    classes = decision.probabilities(card, logits)[card.primary]
    truth = np.array(rows[f"truth_{card.primary}"].to_pylist(), np.int64)
    copied = np.zeros(len(truth), np.bool_)
    if name in WITH_COPIES:
        copied = copies(SHARED / f"medmnist/{name}mnist.npz", rows["source_sha256"].to_pylist())
    with replacing(file) as part, part.open("wb") as stream:
        np.savez(stream, truth=truth, classes=classes, copied=copied)


def result_file(place: Place, name: str, seed: int) -> Path:
    """Return where the result of one training is kept."""
    return place.folder / "results" / f"{name}-seed{seed}.json"


def page(place: Place, names: list[str]) -> str:
    """Return the tables of everything that is kept."""
    found = {name: kept_of(place, name) for name in names}
    found = {name: kept for name, kept in found.items() if kept}
    if not found:
        raise SystemExit(f"{place.folder}: nothing was measured yet")
    scores = {name: score([one["answers"] for one in kept]) for name, kept in found.items()}
    chosen = [SETS.index(name) for name in found]
    rows = [(row[0], *(row[1 + k] for k in chosen)) for row in PUBLISHED]
    means = [f"**{one.auc.mean:.3f} / {one.accuracy.mean:.3f}**" for one in scores.values()]
    rows.append(("**hilum, automatic plan**", *means))
    head = ("test AUC / ACC", *(f"{name} ({len(found[name])} seeds)" for name in found))
    lines = [
        (
            name + tail,
            part.images,
            part.auc.text,
            part.auc.interval,
            part.accuracy.text,
            part.accuracy.interval,
        )
        for name, own in scores.items()
        for tail, part in ((("", own), (" without copies", own.without)) if own.without else (("", own),))
    ]  # fmt: skip
    columns = ("set", "test images", "AUC, mean ± s.d.", "95 %", "ACC, mean ± s.d.", "95 %")
    return f"""{table(head, rows)}

{table(columns, lines)}

Mean and s.d. over seeds; 95 % of the mean over seeds, from 2,000 draws of test images. Copies are \
test images that correlate over 0.99 with an image of train or val.

{table(("set", "seed", "AUC", "ACC", "tune AUC", "epoch", "minutes", "CPU min", "limit"), each(found))}"""


def each(found: dict[str, list[dict[str, Any]]]) -> list[tuple[object, ...]]:
    """Return one row for each training."""
    rows: list[tuple[object, ...]] = []
    for name, kept in found.items():
        for one in kept:
            answers, training = one["answers"], one["training"]
            seconds = training["seconds"]
            limit = "within 30 min" if seconds <= BUDGET_S else "OVER 30 min"
            rows.append(
                (
                    name,
                    one["seed"],
                    f"{official_auc(answers.truth, answers.classes):.3f}",
                    f"{official_accuracy(answers.truth, answers.classes):.3f}",
                    f"{training['tune_auc']:.3f}",
                    training["best_epoch"],
                    f"{seconds / 60:.1f}",
                    f"{training['cpu_s'] / 60:.1f}",
                    limit,
                )
            )
    return rows


def kept_of(place: Place, name: str) -> list[dict[str, Any]]:
    """Return the kept results of a set in the order of seeds; those of another plan are refused."""
    kept = []
    files = sorted((place.folder / "results").glob(f"{name}-seed*.json"))
    for file in (one for one in files if not one.name.endswith(".trained.json")):
        result = json.loads(file.read_text())
        with np.load(file.with_suffix(".npz")) as arrays:
            result["answers"] = Answers(arrays["truth"], arrays["classes"], arrays["copied"])
        kept.append(result)
    if len({one["plan_sha256"] for one in kept}) > 1:
        raise SystemExit(f"{name}: kept results are of different plans; use another --out")
    return sorted(kept, key=lambda one: one["seed"])


if __name__ == "__main__":
    main()
