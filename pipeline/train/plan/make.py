"""One plan from a data set: measured, decided, tried, decided again where the trial says so."""

from dataclasses import dataclass
from typing import Any

from data_schemas import settings
from data_schemas.errors import TrainingError
from data_schemas.fingerprint import Fingerprint
from data_schemas.plan import Plan
from pipeline.ingest.store import Dataset
from pipeline.train import labels
from pipeline.train.folds import rest_shares
from pipeline.train.plan.cost import Estimate
from pipeline.train.plan.estimate import Shape, estimate
from pipeline.train.plan.facts import Facts
from pipeline.train.plan.fingerprint import measure
from pipeline.train.plan.rules import Decision, decide
from pipeline.train.plan.write import render
from pipeline.train.world import open_world


@dataclass(frozen=True)
class Request:
    """What a person asked of the plan."""

    given: settings.Layer  # `--set` and `--label`
    minutes: float | None = None  # what the training may take; None: not asked


@dataclass(frozen=True)
class Made:
    """A plan with everything that it follows from."""

    plan: Plan
    decisions: tuple[Decision, ...]
    fingerprint: Fingerprint
    estimate: Estimate
    text: str


DEFAULT_MINUTES = 30.0
"""How long a training may take if nobody says: more networks are trained only within it."""


def make_plan(dataset: Dataset, request: Request, seconds: float = 8.0) -> Made:
    """Measure a data set and this machine, and decide on a plan; ``seconds`` bound the timed steps.

    Raises
    ------
    TrainingError
        If the data set has no label, or what was asked for doesn't fit it.
    ConfigError
        If what was asked for is no setting.
    """
    if not dataset.info.labels:
        raise TrainingError(
            "the data set has no label to train on",
            where=dataset.folder,
            mend="ingest it with --labels FILE",
        )
    given = given_values(request.given)
    fingerprint = measure(dataset)
    facts = Facts(
        fingerprint,
        minutes=request.minutes or DEFAULT_MINUTES,
        minutes_given=request.minutes is not None,
    )
    plan = plan_of(decide(facts, given), request.given)
    head = labels.resolve_head(plan, dataset.info)
    info = dataset.info
    train, tune = facts.train, facts.tune
    if plan.folds:  # see pipeline.train.folds: of what isn't sealed, all folds but one
        part = (plan.folds - 1) / plan.folds
        others = (train + tune + facts.calibration) * part
        free = ("train", "tune", "calibration")
        persons = round(sum(fingerprint.patients[split] for split in free) * part)
        train, tune = (round(others * share) for share in rest_shares(persons)[:2])
    shape = Shape(head.columns, info.size, info.channels, train, tune)
    world = open_world(plan.device, plan.threads, plan.seed)
    facts.estimate = estimate(plan, shape, world.device, seconds)
    decisions = decide(facts, given)
    plan = plan_of(decisions, request.given)
    final = facts.estimate.of(plan)
    return Made(plan, decisions, fingerprint, final, render(decisions, fingerprint, final))


def given_values(layer: settings.Layer) -> dict[str, Any]:
    """Return the settings that were asked for, by dotted key, checked.

    Raises
    ------
    ConfigError
        For each that is no setting of a plan, or has no such value.
    """
    checked = settings.flat(settings.resolve(Plan, [layer]).model_dump())
    return {key: checked[key] for key in settings.flat(layer.tree) if key in checked}


def plan_of(decisions: tuple[Decision, ...], given: settings.Layer) -> Plan:
    """Return the plan that decisions make."""
    tree: dict[str, Any] = {"schema_version": Plan.VERSION}
    for decision in decisions:
        *above, name = decision.key.split(".")
        inner = tree
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = decision.value
    return settings.resolve(Plan, [settings.Layer(tree), given])
