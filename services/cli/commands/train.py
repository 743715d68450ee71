"""Train a network on a data set, tracked in MLflow, and end with a model package in the run.

DATASET is a folder written by `hilum ingest`. It is trained by DATASET/plan.yaml, which is made, as
`hilum plan` would, if there is none. With --config (a preset's name or a YAML file) that is the plan
instead, on the schema's defaults. Each --set wins over either.

    hilum train datasets/fundus
    hilum train datasets/retina --set learning.epochs=5
    hilum train datasets/retina --config mine.yaml

The run goes to $MLFLOW_TRACKING_URI, or to sqlite:///mlflow.db in the current folder. A run that is
stopped by Ctrl-C or SIGTERM is marked KILLED, one that fails FAILED. Under torchrun every process
takes its share of each batch.

Every few minutes and at each epoch's end a checkpoint is written to the state folder. A run that
was stopped, however it was, goes on from there, in the same MLflow run and to the same weights:

    hilum train datasets/fundus --resume last

With --folds K every image is answered once, by a network that saw no image of its patient:

    hilum train datasets/fundus --folds 5
"""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from data_schemas import settings
from data_schemas.errors import UsageError
from data_schemas.plan import Plan
from pipeline.tracking.page import page_of
from services.cli.console import Console
from services.cli.folds import folds_text, folds_tree
from services.cli.planning import placed, planned, refuse_no_folder
from services.cli.settings import layers_of, preset_names, tracking_uri

if TYPE_CHECKING:
    from data_schemas.card import OperatingPoint
    from data_schemas.dataset import DatasetInfo
    from pipeline.ingest.store import Dataset
    from pipeline.train.run import Place, Trained
    from pipeline.train.world import World


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    presets = ", ".join(preset_names("plans"))
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="folder of `hilum ingest`")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE|PRESET",
        help="plan settings instead of DATASET/plan.yaml; may be given again, later ones win; "
        f"presets: {presets}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="one setting, such as learning.batch=64; wins over every --config",
    )
    parser.add_argument(
        "--accept-leaks",
        action="store_true",
        help="train although the leak doctor's findings block; run and card will say so",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="cross-validation by patient: K networks, each measured on patients it never saw "
        "(the plan's `folds`)",
    )
    parser.add_argument("--name", help="name of the run (default: label, backbone and seed)")
    parser.add_argument(
        "--no-images",
        action="store_true",
        help="keep pictures of the data set (mistakes, augmentation) out of MLflow",
    )
    parser.add_argument("--experiment", help="MLflow experiment (default: the data set's name)")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where runs keep their checkpoints until they finish (default: .hilum/state beside "
        "mlflow.db, or in the current folder with a server)",
    )
    parser.add_argument(
        "--resume",
        default="",
        metavar="RUN_ID|last",
        help="go on with a run that was stopped, by its own plan; last: the experiment's newest one",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Train; 0 when the run finished."""
    options.assignments += [
        *(["accept_leaks=true"] if options.accept_leaks else []),
        *([] if options.folds is None else [f"folds={options.folds}"]),
    ]
    layers = layers_of("plans", options.config, options.assignments)
    settings.resolve(Plan, layers)  # before anything heavy is loaded
    uri = tracking_uri()
    refuse_no_folder(options.dataset)
    _name_compiled_place()
    console.say("loading torch ...")
    from pipeline.ingest.store import open_dataset
    from pipeline.tracking.store import check_uri
    from pipeline.train.cross import assist_folds
    from pipeline.train.run import Place, assist
    from pipeline.train.world import close_world, open_world

    check_uri(uri)
    dataset = open_dataset(options.dataset)
    info = dataset.info
    rank, size = _place_in_world()
    if not options.config:
        layers = [planned(options, dataset, (rank, size), console), *layers]
    plan = settings.resolve(Plan, layers)
    experiment, resume = options.experiment or info.name, ""
    state = (options.state or default_state(uri)).absolute()
    if options.resume:
        resume, state = _stopped(options, uri, experiment)
        plan = _plan_of(options, plan, state / resume, info, size)
    world = open_world(plan.device, plan.threads, plan.seed, rank=rank, size=size)
    try:
        if not world.is_first:
            (assist_folds if plan.folds else assist)(dataset, plan, world)
            _leave(world)
        place = Place(
            uri, experiment, options.name or "", state, resume, images=not options.no_images
        )
        console.say(f"{info.images} images of {info.patients} patients at {info.size} px")
        with placed(layers):
            answer = _carry_out(dataset, plan, place, world, console)
    finally:
        close_world(world)
    console.result(*answer)
    return 0


def _carry_out(
    dataset: "Dataset", plan: Plan, place: "Place", world: "World", console: Console
) -> tuple[str, dict[str, Any]]:
    """Train, or cross-validate, and return what is printed: for a person, and as JSON."""
    from pipeline.train.cross import cross_validate
    from pipeline.train.plan.room import refuse_without_room
    from pipeline.train.run import train

    refuse_without_room(plan, dataset, world, _processes_here(world.size))

    info, uri, experiment = dataset.info, place.uri, place.experiment
    if plan.folds:
        crossed = cross_validate(dataset, plan, place, world, console.progress, console.say)
        return folds_text(crossed, info, uri), folds_tree(crossed, info, uri, experiment)
    trained = train(dataset, plan, place, world, console.progress, console.say)
    return _text(trained, uri, dataset.folder), _tree(trained, uri, experiment)


def _processes_here(size: int) -> int:
    # set by torchrun: how many of the processes share this machine
    try:
        return int(os.environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError as error:
        raise UsageError("LOCAL_WORLD_SIZE must be a number", where="environment") from error


def _leave(world: "World") -> NoReturn:
    """End a process that only assisted, without the interpreter's own end.

    A thread of the process group may still drop its last reference there. It would wait for the
    interpreter's lock, be ended by that, and abort the process: one of ten trainings failed so.
    """
    from pipeline.train.world import close_world

    close_world(world)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def default_state(uri: str) -> Path:
    """Return where runs of a tracking store keep their state: beside its file, else here."""
    from pipeline.tracking.store import database_file

    file = database_file(uri)
    return (Path.cwd() if file is None else file.parent) / ".hilum" / "state"


def _stopped(options: argparse.Namespace, uri: str, experiment: str) -> tuple[str, Path]:
    """Return the id of the run to go on with, and the folder below which its state lies."""
    from pipeline.tracking.children import PARENT_TAG
    from pipeline.tracking.finding import stopped_run
    from pipeline.train.run import STATE_TAG

    run_id, tags = stopped_run(uri, options.resume, experiment)
    if tags.get(PARENT_TAG):  # a fold goes on with its cross-validation
        run_id, tags = stopped_run(uri, tags[PARENT_TAG], experiment)
    told = Path(tags[STATE_TAG]).parent if tags.get(STATE_TAG) else default_state(uri)
    return run_id, (options.state or told).absolute()


def _plan_of(
    options: argparse.Namespace, given: Plan, folder: Path, info: "DatasetInfo", size: int
) -> Plan:
    """Return the plan of the run to go on with; every process refuses alike what has changed."""
    from pipeline.train.state import read_begun, refuse_changes

    begun = read_begun(folder)
    plan = given if options.config or options.assignments else begun.plan
    refuse_changes(begun, plan, info, size)
    return plan


def _name_compiled_place() -> None:
    # torch.compile's own place is below /tmp, where others could put code that we would load
    place = Path.home() / ".hilum" / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place))


def _place_in_world() -> tuple[int, int]:
    # set by torchrun; alone otherwise
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise UsageError("RANK and WORLD_SIZE must be numbers", where="environment") from error


def _point_name(point: "OperatingPoint") -> str:
    return point.label if point.name == "default" else f"{point.label}, {point.name}"


def _text(trained: "Trained", uri: str, dataset: Path) -> str:
    auc = "undefined" if math.isnan(trained.tune_auc) else f"{trained.tune_auc:.4f}"
    points = "\n".join(
        f"  {_point_name(point)}: positive at {point.high:.3f} or more ({point.rule})"
        for point in trained.points
    )
    return f"""run {trained.run_id}
tune AUC {auc} (epoch {trained.best_epoch}), {trained.seconds:.0f} s
{points}

MLflow page:  {page_of(uri)}
next:         hilum evaluate {trained.run_id} --dataset {dataset}
              hilum register {trained.run_id} --name NAME --alias champion"""


def _tree(trained: "Trained", uri: str, experiment: str) -> dict[str, Any]:
    return {
        "run_id": trained.run_id,
        "experiment": experiment,
        "tracking_uri": uri,
        "tune_auc": None if math.isnan(trained.tune_auc) else trained.tune_auc,
        "best_epoch": trained.best_epoch,
        "weights_sha256": trained.weights_sha256,
        "operating_points": [point.model_dump() for point in trained.points],
        "seconds": round(trained.seconds, 1),
    }
