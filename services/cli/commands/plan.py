"""Measure a data set and this machine, and write the plan of a training that follows from them.

DATASET is a folder written by `hilum ingest`. The plan goes to DATASET/plan.yaml, with a reason on
every line, and what was measured to fingerprint.json beside it; `hilum train DATASET` carries it out.
Read it, change what you like; a plan that was edited is not written over without --force.

    hilum plan datasets/fundus
    hilum plan datasets/fundus --label referable --minutes 60 --set network.backbone=resnet18

Some steps are timed, so that expected time and memory are said before the start.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas import settings
from data_schemas.errors import UsageError
from services.cli.console import Console
from services.cli.planning import refuse_no_folder
from services.cli.tables import aligned

if TYPE_CHECKING:
    from pipeline.train.plan.make import Made

_WIDTH = 100


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="folder of `hilum ingest`")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the plan goes (default: DATASET/plan.yaml)"
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="a label to learn; may be given again for several binary ones",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="what the training may take; it is shortened to that (without it: 30 minutes, which "
        "decide only whether several networks are trained)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="decide one setting yourself; what depends on it follows",
    )
    parser.add_argument("--force", action="store_true", help="write over a plan that was edited")


def run(options: argparse.Namespace, console: Console) -> int:
    """Plan; 0 when the plan was written."""
    if options.minutes is not None and not options.minutes > 0:
        raise UsageError(f"{options.minutes:g} minutes are no time", where="--minutes")
    given = asked_for(options.assignments, options.label)
    refuse_no_folder(options.dataset)
    console.say("loading torch ...")
    from pipeline.ingest.store import open_dataset
    from pipeline.train.plan.make import Request, make_plan
    from pipeline.train.plan.write import PLAN_FILE, refuse_edited, write_plan

    dataset = open_dataset(options.dataset)
    path = options.out or options.dataset / PLAN_FILE
    if not options.force:
        refuse_edited(path)
    console.say(f"measuring {dataset.info.images:,} images, then timing a few steps ...")
    made = make_plan(dataset, Request(given, options.minutes))
    write_plan(path, made.text, made.fingerprint, force=options.force)
    console.result(_text(made, path, options.dataset), tree(made, path))
    return 0


def asked_for(assignments: list[str], labels: list[str]) -> settings.Layer:
    """Return `--set` and `--label` words as one checked layer."""
    from data_schemas.plan import Plan

    words = [*([f"labels=[{', '.join(labels)}]"] if labels else []), *assignments]
    layer = settings.from_assignments(words)
    settings.resolve(Plan, [layer])
    return layer


def tree(made: "Made", path: Path) -> dict[str, Any]:
    """Return a plan as plain values, for --json."""
    estimate = made.estimate
    return {
        "plan": str(path),
        "plan_sha256": made.plan.digest(),
        "decisions": [
            {"key": d.key, "value": d.value, "kind": d.kind, "why": d.why} for d in made.decisions
        ],
        "needed_bytes": round(estimate.needed_bytes),
        "available_bytes": estimate.available_bytes,
        "fits": estimate.fits,
        "epoch_seconds": round(estimate.epoch_s, 3),
        "total_seconds": round(estimate.total_s, 1),
        "device": estimate.device,
        "fingerprint": made.fingerprint.model_dump(mode="json"),
    }


def _text(made: "Made", path: Path, dataset: Path) -> str:
    from pipeline.train.plan.write import as_yaml, summary

    rows = [(d.key, as_yaml(d.value), d.kind, d.why) for d in made.decisions if d.kind != "fixed"]
    lines = [aligned([("decision", "value", "kind", "why"), *rows])]
    fixed = [f"{d.key} {as_yaml(d.value)}" for d in made.decisions if d.kind == "fixed"]
    lines += ["", "the same for every data set (reasons in the file):"]
    lines += _wrapped(fixed)
    lines += ["", summary(made.estimate)]
    if not made.estimate.fits:
        lines.append("It does not fit: choose a smaller network or smaller images.")
    lines += ["", f"plan:  {path}", f"next:  hilum train {dataset}"]
    return "\n".join(lines)


def _wrapped(words: list[str]) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > _WIDTH:
            lines.append("")
        lines[-1] += ("  " if not lines[-1] else ", ") + word
    return lines
