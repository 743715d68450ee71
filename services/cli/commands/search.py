"""Try other settings around a plan, on the tuning split, and write the plan of the best trial.

DATASET is a folder written by `hilum ingest`. The search starts from DATASET/plan.yaml (made if there
is none), or from --config; its first trial is that plan itself. It needs the extra `search` (Optuna).

    hilum search datasets/fundus --trials 20
    hilum search datasets/fundus --minutes 60 --out better.yaml

Each trial is a run of its own below the search's run. A search that was stopped goes on when the same
command is given again. Calibration and test are never looked at.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas import settings
from data_schemas.errors import UsageError
from data_schemas.files import write_text
from data_schemas.plan import Plan
from pipeline.tracking.page import page_of
from services.cli.commands.train import default_state
from services.cli.console import Console
from services.cli.planning import planned, refuse_no_folder
from services.cli.settings import layers_of, preset_names, tracking_uri
from services.cli.tables import aligned

if TYPE_CHECKING:
    from pipeline.train.search import Searched

OUT = "plan-search.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    presets = ", ".join(preset_names("plans"))
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="folder of `hilum ingest`")
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="how many (default: 20)"
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="start no trial that would end later than this"
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE|PRESET",
        help=f"the plan to start from instead of DATASET/plan.yaml; presets: {presets}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="one setting of the plan to start from, such as learning.epochs=10",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where the best plan goes (default: DATASET/{OUT})",
    )
    parser.add_argument("--experiment", help="MLflow experiment (default: the data set's name)")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where the search is kept until it has finished"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Search; 0 when the plan was written."""
    if options.trials < 1 or (options.minutes is not None and not options.minutes > 0):
        raise UsageError("a search needs a trial and some time", where="--trials, --minutes")
    layers = layers_of("plans", options.config, options.assignments)
    settings.resolve(Plan, layers)  # before anything heavy is loaded
    uri = tracking_uri()
    refuse_no_folder(options.dataset)
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("Optuna is not installed", mend="pip install 'hilum[search]'")
    console.say("loading torch ...")
    from pipeline.ingest.store import open_dataset
    from pipeline.tracking.store import check_uri
    from pipeline.train.run import Place
    from pipeline.train.search import Budget, search

    check_uri(uri)
    dataset = open_dataset(options.dataset)
    if not options.config:
        options.resume = ""
        layers = [planned(options, dataset, (0, 1), console), *layers]
    plan = settings.resolve(Plan, layers)
    place = Place(
        uri,
        options.experiment or dataset.info.name,
        f"search around {plan.network.backbone}",
        (options.state or default_state(uri)).absolute(),
        tags={"hilum.stage": "search"},
        again=f"hilum search {options.dataset}",
    )
    budget = Budget(options.trials, options.minutes)
    found = search(dataset, plan, place, budget, console.progress, console.say)
    out = options.out or options.dataset / OUT
    write_text(out, found.text)
    console.result(_text(found, out, options.dataset, uri), _tree(found, out, uri))
    return 0


def _text(found: "Searched", out: Path, dataset: Path, uri: str) -> str:
    rows = [("trial", "state", "tune AUC", "s", "tried (rate: a factor on the plan's)")]
    for one in found.trials:
        changes = ", ".join(f"{key} {value:.3g}" for key, value in one.values.items())
        cells = (str(one.number), one.state, f"{one.score:.4f}", f"{one.seconds:.0f}")
        rows.append((*cells, changes if one.settings else "the plan itself"))
    return f"""{aligned(rows)}

run {found.run_id}: trial {found.best.number} is the best of {len(found.trials)}, tune AUC \
{found.best.score:.4f}; chosen on the tune split, so the figure flatters

plan:         {out}
MLflow page:  {page_of(uri)}
next:         hilum train {dataset} --config {out}"""


def _tree(found: "Searched", out: Path, uri: str) -> dict[str, Any]:
    from pipeline.evaluate.statistics import known

    return {
        "run_id": found.run_id,
        "tracking_uri": uri,
        "plan": str(out),
        "plan_sha256": found.plan.digest(),
        "best": found.best.number,
        "trials": [
            {
                "trial": one.number,
                "state": one.state,
                "tune_auc": known(one.score),
                "settings": one.settings,
                "seconds": round(one.seconds, 1),
            }
            for one in found.trials
        ],
    }
