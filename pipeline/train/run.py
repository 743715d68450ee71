"""One training run from end to end: data set and plan in, a tracked run with a model package out."""

import math
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas import settings
from data_schemas.card import Card, OperatingPoint
from data_schemas.files import sha256_of_file
from data_schemas.plan import Plan
from data_schemas.progress import Progress
from data_schemas.version import our_version
from pipeline.evaluate.log_review import IMAGES_TAG
from pipeline.model.export import export_package
from pipeline.tracking import runs
from pipeline.train.calibrating import calibrate, checked_images, export_metrics
from pipeline.train.ensemble import AnyNetwork
from pipeline.train.faults import explained, may_go_on
from pipeline.train.headlines import headlines, log_labels
from pipeline.train.leaks import Leaks
from pipeline.train.learning import split_logits, train_network
from pipeline.train.loop import Fitted, Metrics
from pipeline.train.pages import (
    describe_experiment,
    log_mistakes,
    log_model,
    log_pages,
    log_review,
    name_of,
    not_judged,
)
from pipeline.train.referring import reference_of
from pipeline.train.state import StateFolder, begin, begun_with, reopen
from pipeline.train.task import Calibrated, Task, TrainingSet, prepare
from pipeline.train.tracker import Say, Tracker
from pipeline.train.world import World

VERIFICATION_IMAGES = 8
STATE_TAG = "hilum.state"
"""The run's tag that says where `hilum train --resume` finds its checkpoints."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished run is known by."""

    run_id: str
    best_epoch: int
    tune_auc: float
    weights_sha256: str
    points: tuple[OperatingPoint, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is tracked, and under which names."""

    uri: str
    experiment: str
    name: str  # empty: label, backbone and seed
    state: Path | None = None  # below it each run keeps its checkpoints; without it, none are kept
    resume: str = ""  # the run to go on with, instead of a new one
    parent: str = ""  # the run that this one is a part of: the cross-validation of a fold
    tags: Mapping[str, str] = field(default_factory=dict)  # beside those that every run has
    again: str = ""  # the command that goes on with it; empty: hilum train DATASET --resume RUN
    images: bool = True  # whether MLflow may hold pictures of the data set


def train(
    dataset: TrainingSet,
    plan: Plan,
    place: Place,
    world: World,
    progress: Progress,
    say: Say,
    leaks: Leaks | None = None,
) -> Trained:
    """Train the planned network on an opened data set, in an MLflow run of its own.

    ``progress`` hears of every step, ``say`` gets remarks and one line per epoch. With
    ``place.resume`` the run that was stopped goes on from its last checkpoint. ``leaks`` is what was
    found between these splits, where somebody has looked already. The splits are those of
    ``dataset``; ``plan.folds`` is the business of ``cross.cross_validate``.

    Raises
    ------
    TrainingError
        If plan and data don't fit, the loss stops being finite, or the run can't go on.
    TrackingError
        If MLflow can't be used.
    """
    task = prepare(dataset, plan, leaks)
    for remark in task.notes:
        say(f"note: {remark}")
    started = time.perf_counter()
    with opened(task, place, world, say) as (run, state):
        _log_start(run, task)
        describe_experiment(run)
        learned = train_network(task, world, Tracker(run, task, progress, say), state, say)
        task = replace(task, notes=(*task.notes, *learned.notes))
        network, fitted = learned.network, learned.fitted
        run.log_metrics(headlines(_finals(fitted), task.head), step=0)
        say("trained; calibrating")
        calibrated = calibrate(network, task, world)
        run.log_metrics(headlines(calibrated.metrics, task.head), step=0)
        log_labels(run, task.head, calibrated.metrics, fitted.history)
        tune = task.rows["tune"]
        tune_logits = split_logits(network, task, tune, world, "fp32")
        drawn = log_pages(run, task, calibrated, tune_logits, fitted)
        if place.images:
            log_mistakes(run, task, calibrated, tune_logits, fitted.best_epoch)
        card = _card(task, run.run_id, network, calibrated, learned.licence)
        say("exporting, and comparing the package with the network from bytes to verdict")
        reference = reference_of(network, task, calibrated, world)
        with tempfile.TemporaryDirectory() as scratch:
            package = Path(scratch) / "package"
            # a channels-last network holds its weights in an order that no file format wants
            network.to("cpu", memory_format=torch.contiguous_format)
            real = checked_images(task, calibrated, tune_logits)
            contract = task.dataset.contract
            card = export_package(
                network, drawn_images(task), card, contract, package, real, reference
            )
            digest = sha256_of_file(package / "model.safetensors")
            run.log_metrics(export_metrics(card), step=0)
            run.log_files(package, "package")
            log_model(run, task, fitted, card, package)
        auc = fitted.best.get("tune/auc", math.nan)
        seconds = state.spent_s if state is not None else time.perf_counter() - started
        run.log_metrics({"time/total_s": seconds}, step=0)
        run.set_tags({"hilum.weights_sha256": digest})
        log_review(run, not_judged(task, fitted, calibrated, tune_logits, card), card, drawn)
    return Trained(run.run_id, fitted.best_epoch, auc, digest, calibrated.points, seconds)


@contextmanager
def opened(
    task: Task, place: Place, world: World, say: Say
) -> Iterator[tuple[runs.TrackedRun, StateFolder | None]]:
    """Open the run and its state folder, which is gone once the run has finished."""
    with ExitStack() as closing:
        state: StateFolder | None = None
        if place.resume:
            # first of all: a run that may not go on must not be touched
            now = begun_with(place.resume, task.plan, task.info, world)
            state = closing.enter_context(reopen(place.state or Path(), now, task.info, say))
            tags = {**_tags(task), **_own_tags(place), STATE_TAG: str(state.path)}
            again = runs.resumed_run(place.uri, place.resume, tags, outbox=place.state, say=say)
            run = closing.enter_context(again)
        else:
            tags = {**_tags(task), **_own_tags(place)}
            run = closing.enter_context(_new_run(place, task, tags, say))
            if place.state is not None:
                begun = begun_with(run.run_id, task.plan, task.info, world)
                state = closing.enter_context(begin(place.state, begun, say))
                run.set_tags({STATE_TAG: str(state.path)})
        say(f"run {run.run_id} in experiment `{place.experiment}`")
        with explained(run, task, world):
            try:
                yield run, state
            except BaseException as error:
                # a fold goes on through its cross-validation, which says so itself
                if state is not None and not place.parent and may_go_on(error):
                    command = shlex.join(("hilum", "train", str(task.dataset.folder), "--resume"))
                    under = f" (torchrun, {world.size} processes)" if world.size > 1 else ""
                    say(f"stopped; its state lies in {state.path}")
                    say(f"go on with{under}: {place.again or f'{command} {run.run_id}'}")
                raise
    if state is not None:
        state.remove()


def _own_tags(place: Place) -> dict[str, str]:
    return {IMAGES_TAG: "kept" if place.images else "none", **place.tags}


def _new_run(
    place: Place, task: Task, tags: dict[str, str], say: Say
) -> AbstractContextManager[runs.TrackedRun]:
    return runs.tracked_run(
        place.uri,
        place.experiment,
        place.name or name_of(task),
        tags,
        parent=place.parent,
        outbox=place.state,
        say=say,
    )


def assist(dataset: TrainingSet, plan: Plan, world: World, leaks: Leaks | None = None) -> None:
    """Do the share of a process that isn't the first of its world: learn along, write nothing."""
    task = prepare(dataset, plan, leaks)
    train_network(task, world, lambda _epoch, _step, _metrics: None)


def drawn_images(task: Task) -> NDArray[np.uint8]:
    """Return seeded drawings [8, S, S, C] on which the exported graph is checked.

    They travel in the package, and a package must not carry a patient's picture. Soft blobs with
    noise reach every layer; the package is checked on real images, too, which stay behind.
    """
    size, channels = task.info.size, task.info.channels
    generator = np.random.default_rng(20)
    coarse = generator.uniform(0, 255, (VERIFICATION_IMAGES, 5, 5, channels))
    places = np.linspace(0, 4, size)
    low = np.minimum(places.astype(int), 3)
    part = (places - low)[:, None]
    across = coarse[:, low] * (1 - part[..., None]) + coarse[:, low + 1] * part[..., None]
    both = across[:, :, low] * (1 - part) + across[:, :, low + 1] * part
    grains = generator.normal(0, 12, both.shape)
    return np.asarray(np.clip(np.rint(both + grains), 0, 255), np.uint8)


def _finals(fitted: Fitted) -> Metrics:
    kept = {
        f"best/{name.partition('/')[2]}": value
        for name, value in fitted.best.items()
        if name.startswith("tune/")
    }
    return {
        **kept,
        "best/epoch": float(fitted.best_epoch),
        "best/epochs_trained": float(fitted.epochs),
    }


def _card(
    task: Task,
    run_id: str,
    network: AnyNetwork,
    calibrated: Calibrated,
    licence: str,
) -> Card:
    info, contract = task.info, task.dataset.contract
    return Card(
        name=info.name,
        run_id=run_id,
        hilum_version=our_version(),
        git_commit=runs.git_commit(),
        dataset_name=info.name,
        dataset_sha256=info.content_sha256,
        contract_name=contract.name,
        contract_sha256=contract.digest(),
        plan_sha256=task.plan.digest(),
        backbone=task.plan.backbones,
        parameters=0,
        size=info.size,
        channels=info.channels,
        evidence_stride=network.stride(info.size),
        outputs=calibrated.outputs,
        primary=task.head.primary,
        operating_points=calibrated.points,
        aggregate=task.plan.aggregate,
        onnx_max_logit_difference=0.0,
        weights_licence=licence,
        notes=task.notes + calibrated.notes,
    )


def _tags(task: Task) -> dict[str, str]:
    return {
        "hilum.stage": "train",
        "hilum.dataset": task.info.name,
        # where `hilum evaluate RUN` looks for the test split
        "hilum.dataset_path": str(task.dataset.folder.resolve()),
        "hilum.dataset_sha256": task.info.content_sha256,
        "hilum.contract_sha256": task.info.contract_sha256,
        "hilum.plan_sha256": task.plan.digest(),
        "hilum.seed": str(task.plan.seed),
        "hilum.leaks": task.leaks,
    }


def _log_start(run: runs.TrackedRun, task: Task) -> None:
    info = task.info
    about = {"data.name": info.name, "data.images": info.images, "data.patients": info.patients}
    run.log_params({**about, **settings.flat(task.plan.model_dump(mode="json"))})
    run.log_text(settings.to_yaml(task.plan), "config/plan.yaml")
    run.log_json(task.info.model_dump(mode="json"), "config/dataset.json")
    run.log_json(task.dataset.contract.model_dump(mode="json"), "config/contract.json")
    for split, rows in task.rows.items():
        if len(rows):
            run.log_dataset(task.info, split, len(rows))
    run.log_metrics(
        {f"data/{split}_images": float(len(rows)) for split, rows in task.rows.items()}, step=0
    )
    run.flush()
