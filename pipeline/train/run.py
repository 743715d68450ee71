"""One training run from end to end: data set and plan in, a tracked run with a model package out."""

import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from data_schemas import settings
from data_schemas.card import Card, OperatingPoint
from data_schemas.errors import TrainingError
from data_schemas.files import sha256_of_file
from data_schemas.plan import Plan
from data_schemas.progress import Progress
from data_schemas.terms import Split
from data_schemas.version import our_version
from pipeline.evaluate.calibration import fit_temperature
from pipeline.evaluate.operating_points import choose
from pipeline.model.export import export_package
from pipeline.tracking import runs
from pipeline.train import augment, judge, labels, networks, weights
from pipeline.train.batches import Batch, Order, TrainingBatches, in_order
from pipeline.train.keeping import keeper
from pipeline.train.labels import Floats, Ints
from pipeline.train.loop import Fitted, Metrics, Training, fit
from pipeline.train.pages import log_pages, note
from pipeline.train.state import StateFolder, begin, begun_with, reopen
from pipeline.train.task import Calibrated, Task, TrainingSet, prepare
from pipeline.train.world import World

Say = Callable[[str], None]

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
    name: str
    state: Path | None = None  # below it each run keeps its checkpoints; without it, none are kept
    resume: str = ""  # the run to go on with, instead of a new one


def train(
    dataset: TrainingSet, plan: Plan, place: Place, world: World, progress: Progress, say: Say
) -> Trained:
    """Train the planned network on an opened data set, in an MLflow run of its own.

    ``progress`` hears of every step, ``say`` gets remarks and one line per epoch. With
    ``place.resume`` the run that was stopped goes on from its last checkpoint.

    Raises
    ------
    TrainingError
        If plan and data don't fit, the loss stops being finite, or the run can't go on.
    TrackingError
        If MLflow can't be used.
    """
    task = prepare(dataset, plan)
    for remark in task.notes:
        say(f"note: {remark}")
    started = time.perf_counter()
    with _opened(task, place, world, say) as (run, state):
        _log_start(run, task)
        network, licence = build_network(task, world)
        tracker = Tracker(run, task, progress, say)
        fitted = learn(network, task, world, tracker, state)
        run.log_metrics(_finals(fitted, network), step=0)
        calibrated = calibrate(network, task, world)
        run.log_metrics(calibrated.metrics, step=0)
        tune = task.rows["tune"]
        tune_logits = _logits(network, task, tune, world, "fp32")
        log_pages(run, task, calibrated, tune_logits, fitted)
        card = _card(task, run.run_id, network, calibrated, licence)
        with tempfile.TemporaryDirectory() as scratch:
            package = Path(scratch) / "package"
            # a channels-last network holds its weights in an order that no file format wants
            network.to("cpu", memory_format=torch.contiguous_format)
            card = export_package(network, drawn_images(task), card, task.dataset.contract, package)
            digest = sha256_of_file(package / "model.safetensors")
            run.log_metrics({"checks/onnx_difference": card.onnx_max_logit_difference}, step=0)
            run.log_files(package, "package")
        auc = fitted.best.get("tune/auc", math.nan)
        seconds = state.spent_s if state is not None else time.perf_counter() - started
        run.log_metrics({"time/total_s": seconds}, step=0)
        run.set_tags({"hilum.weights_sha256": digest})
        run.set_note(note(task, fitted, calibrated, card))
    return Trained(run.run_id, fitted.best_epoch, auc, digest, calibrated.points, seconds)


@contextmanager
def _opened(
    task: Task, place: Place, world: World, say: Say
) -> Iterator[tuple[runs.TrackedRun, StateFolder | None]]:
    """Open the run and its state folder, which is gone once the run has finished."""
    with ExitStack() as closing:
        state: StateFolder | None = None
        if place.resume:
            # first of all: a run that may not go on must not be touched
            now = begun_with(place.resume, task.plan, task.info, world)
            state = closing.enter_context(reopen(place.state or Path(), now, task.info, say))
            tags = {**_tags(task), STATE_TAG: str(state.path)}
            run = closing.enter_context(runs.resumed_run(place.uri, place.resume, tags))
        else:
            opening = runs.tracked_run(place.uri, place.experiment, place.name, _tags(task))
            run = closing.enter_context(opening)
            if place.state is not None:
                begun = begun_with(run.run_id, task.plan, task.info, world)
                state = closing.enter_context(begin(place.state, begun, say))
                run.set_tags({STATE_TAG: str(state.path)})
        say(f"run {run.run_id} in experiment `{place.experiment}`")
        try:
            yield run, state
        except BaseException as error:
            if state is not None and not isinstance(error, TrainingError):
                command = shlex.join(("hilum", "train", str(task.dataset.folder), "--resume"))
                under = f" (torchrun, {world.size} processes)" if world.size > 1 else ""
                say(f"stopped; its state lies in {state.path}")
                say(f"go on with{under}: {command} {run.run_id}")
            raise
    if state is not None:
        state.remove()


def assist(dataset: TrainingSet, plan: Plan, world: World) -> None:
    """Do the share of a process that isn't the first of its world: learn along, write nothing."""
    task = prepare(dataset, plan)
    network, _ = build_network(task, world)
    learn(network, task, world, lambda _epoch, _step, _metrics: None)


def build_network(task: Task, world: World) -> tuple[networks.EvidenceNetwork, str]:
    """Return the planned network on its device, ready to learn, and its weights' licence."""
    torch.manual_seed(task.plan.seed)
    plan = task.plan.network
    network = networks.build(plan, task.head.columns, task.info.size)
    licence = weights.load(network, plan)
    given = labels.balance(task.head, task.targets[task.rows["train"]], "none")
    networks.set_prior(network, torch.tensor(given.bias, dtype=torch.float32))
    if task.plan.learning.precision == "bf16":
        network.to(memory_format=torch.channels_last)
    return network.to(world.device), licence


def learn(
    network: networks.EvidenceNetwork,
    task: Task,
    world: World,
    track: Callable[[int, int, Metrics | None], None],
    state: StateFolder | None = None,
) -> Fitted:
    """Fit ``network`` on the training split, stopped and selected by the tuning split.

    It goes on from the newest checkpoint in ``state``, if there is one.
    """
    plan, rows = task.plan, task.rows
    given = labels.balance(task.head, task.targets[rows["train"]], plan.learning.balance)
    batches = TrainingBatches(
        task.dataset,
        task.targets,
        Order(rows["train"], plan.seed, given.chance),
        plan.learning.batch,
        augment.policy(plan.augmentation, plan.seed),
        world,
    )
    objective = labels.Objective(task.head, given, plan.learning.label_smoothing, world.device)
    precision = plan.learning.precision

    def loss_of(net: torch.nn.Module, batch: Batch) -> torch.Tensor:
        assert isinstance(net, networks.EvidenceNetwork)  # noqa: S101 - for the type checker
        with world.autocast(precision):
            maps = net.features(batch.images)
        return objective(net.judge(maps.float())[0], batch.targets) * batch.weight

    with keeper(state, world, plan.learning.checkpoint_minutes) as keep:
        training = Training(network, plan.learning, batches.steps)

        def validate(net: torch.nn.Module) -> Metrics:
            assert isinstance(net, networks.EvidenceNetwork)  # noqa: S101 - for the type checker
            between = partial(keep, training)  # a stop need not wait for all of the tuning split
            logits = _logits(net, task, rows["tune"], world, precision, between)
            tune = judge.tune_metrics(task.head, logits, task.targets[rows["tune"]])
            return {**tune, "time/waited_s": batches.waited_s}

        torch.manual_seed(plan.seed + world.rank)  # dropout
        keep.restore(training)
        return fit(training, batches, loss_of, validate, track, world, keep)


class Tracker:
    """Listens to the loop: progress at every step, one request to MLflow at every epoch."""

    def __init__(self, run: runs.TrackedRun, task: Task, progress: Progress, say: Say) -> None:
        self._run, self._progress, self._say = run, progress, say
        self._images = len(task.rows["train"])
        self._epochs = task.plan.learning.epochs
        batch = task.plan.learning.batch
        self._steps = max(1, round(self._images / batch))
        self._started = self._trained = time.perf_counter()
        self._line = ""
        self._heard = 0  # steps of this epoch that were trained here, not before a resume

    def __call__(self, epoch: int, step: int, metrics: Metrics | None) -> None:
        """Take note of a step, or of a finished epoch."""
        now = time.perf_counter()
        if metrics is None:
            self._trained = now
            self._heard += 1
            done = (epoch - 1) * self._steps + step
            self._progress(done, self._epochs * self._steps, f"epoch {epoch}{self._line}")
            return
        trained_s = max(self._trained - self._started, 1e-9)
        metrics = dict(metrics)
        waited_s = metrics.pop("time/waited_s", 0.0)
        metrics |= {
            "time/epoch_s": now - self._started,
            "time/images_per_s": self._images * self._heard / self._steps / trained_s,
            "time/loader_stall_pct": 100 * waited_s / trained_s,
            "mem/rss_mb": psutil.Process().memory_info().rss / 2**20,
        }
        if torch.cuda.is_available():
            metrics["mem/gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
        self._run.log_metrics(metrics, step=epoch)
        self._run.flush()
        self._line = f", tune AUC {metrics['tune/auc']:.3f}"
        self._say(
            f"epoch {epoch}/{self._epochs}: train loss {metrics['train/loss']:.4f}, "
            f"tune loss {metrics['tune/loss']:.4f}, tune AUC {metrics['tune/auc']:.4f}, "
            f"{metrics['time/images_per_s']:.0f} images/s"
        )
        self._started, self._heard = time.perf_counter(), 0


def calibrate(network: networks.EvidenceNetwork, task: Task, world: World) -> Calibrated:
    """Fit temperatures and choose operating points on the calibration split, in fp32."""
    split: Split = "calibration" if len(task.rows["calibration"]) else "tune"
    rows = task.rows[split]
    notes = [] if split == "calibration" else ["no calibration split: calibrated on the tune split"]
    logits = _logits(network, task, rows, world, "fp32")
    truths = task.targets[rows]
    outputs, points = [], []
    metrics: Metrics = {}
    for place, output in enumerate(task.head.outputs):
        known = truths[:, place] >= 0
        own, labelled = logits[known], truths[known, place]
        fitted = fit_temperature(own[:, list(output.columns)], labelled, task.head.kind)
        if fitted.note:
            notes.append(f"{output.label}: {fitted.note}")
        if task.plan.calibrate:
            output = output.model_copy(update={"temperature": fitted.value})  # noqa: PLW2901
        truth = judge.is_positive(output, labelled)
        probability = judge.positive(output, own)
        point = choose(truth, probability, task.plan.operating, label=output.label)
        if point.note:
            notes.append(f"{output.label}: {point.note}")
        outputs.append(output)
        points.append(point)
        tail = f"_{output.label}" if len(task.head.outputs) > 1 else ""
        metrics |= judge.calibration_metrics(truth, probability, tail)
        metrics |= {
            f"calibration/temperature{tail}": output.temperature,
            f"calibration/loss_before{tail}": fitted.loss_before,
            f"calibration/loss_after{tail}": fitted.loss_after,
            f"calibration/threshold{tail}": point.high,
            f"calibration/sensitivity{tail}": point.sensitivity,
            f"calibration/specificity{tail}": point.specificity,
        }
    return Calibrated(tuple(outputs), tuple(points), split, logits, metrics, tuple(notes))


def drawn_images(task: Task) -> NDArray[np.uint8]:
    """Return seeded drawings [8, S, S, C] on which the exported graph is checked.

    They travel in the package, and a package must not carry a patient's picture. Soft blobs with
    noise reach every layer; real images go through the exported graph in ``evaluate``.
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


def _logits(
    network: networks.EvidenceNetwork,
    task: Task,
    rows: Ints,
    world: World,
    precision: str,
    between: Callable[[], None] = lambda: None,
) -> Floats:
    images = in_order(task.dataset, rows, max(16, task.plan.learning.batch), world, between)
    return judge.logits_of(network, images, world, precision)


def _finals(fitted: Fitted, network: torch.nn.Module) -> Metrics:
    kept = {
        f"best/{name.partition('/')[2]}": value
        for name, value in fitted.best.items()
        if name.startswith("tune/")
    }
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {
        **kept,
        "best/epoch": float(fitted.best_epoch),
        "best/epochs_trained": float(fitted.epochs),
        "best/parameters": float(parameters),
    }


def _card(
    task: Task,
    run_id: str,
    network: networks.EvidenceNetwork,
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
        backbone=task.plan.network.backbone,
        parameters=0,
        size=info.size,
        channels=info.channels,
        evidence_stride=network.stride(info.size),
        outputs=calibrated.outputs,
        primary=task.head.primary,
        operating_points=calibrated.points,
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
    run.log_params(settings.flat(task.plan.model_dump(mode="json")))
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
