"""Tries other settings around a plan (Optuna): one run for the search, one below it for each trial.

A trial learns on train and is judged on tune, like any training; calibration and test are not
looked at. The first trial is the plan itself. Trials that lie below the median of the earlier ones
are stopped. The study is a journal in the state folder: a search that was killed goes on with the
trial it was in.
"""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas import settings
from data_schemas.errors import TrainingError
from data_schemas.plan import Plan
from data_schemas.progress import Progress
from pipeline.tracking import runs
from pipeline.train import search_pages
from pipeline.train.leaks import Leaks
from pipeline.train.learning import train_network
from pipeline.train.loop import Metrics
from pipeline.train.run import Place, opened
from pipeline.train.search_space import Trial, changed, own_values, suggest, with_settings
from pipeline.train.state import BEGUN, read_begun
from pipeline.train.task import Task, TrainingSet, prepare
from pipeline.train.tracker import Say, Tracker
from pipeline.train.world import World, open_world

if TYPE_CHECKING:
    import optuna

TRIAL_TAG = "hilum.trial"
JOURNAL = "study.journal"
UNPRUNED = 4
"""So many trials end before any is stopped: a median of fewer says nothing."""
SCORE = "tune/auc"


@dataclass(frozen=True)
class Budget:
    """How long to search: so many trials, or until another one wouldn't end in time."""

    trials: int
    minutes: float | None = None


@dataclass(frozen=True)
class Searched:
    """What a finished search is known by."""

    run_id: str
    plan: Plan  # of the best trial
    best: Trial
    trials: tuple[Trial, ...]
    text: str  # plan.yaml with reasons


class _PrunedError(Exception):
    """The trial lies below the median of the earlier ones at this epoch."""


@dataclass
class _Search:
    """What all trials of one search share."""

    task: Task
    place: Place
    world: World
    say: Say
    run: runs.TrackedRun
    study: "optuna.Study"
    trials: list[Trial] = field(default_factory=list)


def search(
    dataset: TrainingSet, plan: Plan, place: Place, budget: Budget, progress: Progress, say: Say
) -> Searched:
    """Search around ``plan`` in this process; ``place.state`` is where the study is kept.

    Raises
    ------
    TrainingError
        If plan and data don't fit, or no trial came to its end.
    TrackingError
        If MLflow can't be used.
    """
    # a trial is one network: several of them, and folds, would only cost time
    alone = with_settings(plan, {"network.members": 1, "beside.backbone": "none", "folds": 0})
    task = prepare(dataset, alone)
    world = open_world(plan.device, plan.threads, plan.seed)
    root = (place.state or Path()) / "search"
    home = replace(place, state=root, resume=_unfinished(root, task))
    with opened(task, home, world, say) as (run, state):
        if state is None:
            raise TrainingError("a search needs a state folder", where="state")
        search_pages.log_start(run, task)
        going = _Search(task, home, world, say, run, _open_study(state.path / JOURNAL))
        _mend_cut(going.study)
        going.trials += [_told(n, one) for n, one in enumerate(_ended(going.study), start=1)]
        _try_all(going, plan, budget, progress)
        ended = [one for one in going.trials if one.state == "complete"]
        if not ended:
            raise TrainingError("no trial came to its end", mend="see the runs below this one")
        best = max(ended, key=lambda one: (one.score, -one.number))
        found = with_settings(plan, best.settings)
        text = search_pages.plan_text(found, plan, best, going.trials)
        search_pages.log_end(run, going.task, going.study, going.trials, text)
    return Searched(run.run_id, found, best, tuple(going.trials), text)


def _try_all(going: _Search, plan: Plan, budget: Budget, progress: Progress) -> None:
    counted = _counted(going, budget, progress)
    values = own_values(plan)
    if values is not None and not going.study.trials:
        going.study.enqueue_trial(values)
    elif values is None:
        going.say("note: the plan itself lies outside the space that is searched")
    while len(going.trials) < budget.trials and _in_time(going.trials, budget):
        asked = _ask(going.study, plan.seed)
        done = _try(going, asked, counted)
        going.trials.append(done)
        going.run.log_metrics({"search/tune_auc": done.score}, step=done.number)
        going.run.flush()
        going.say(f"trial {done.number}: {done.state}, tune AUC {done.score:.4f}")


def _ask(study: "optuna.Study", seed: int) -> "optuna.Trial":
    import optuna

    # a sampler of its own for each trial: a search that was killed asks what it would have asked
    number = len(_ended(study))
    study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + number, n_startup_trials=6)
    return study.ask()


def _try(going: _Search, asked: "optuna.Trial", progress: Progress) -> Trial:
    """Train one trial in a run of its own and tell the study how it ended."""
    import optuna

    number, values = len(going.trials) + 1, suggest(asked)
    given = changed(going.task.plan, values)
    started = time.monotonic()
    state, score = optuna.trial.TrialState.FAIL, math.nan
    tags = {"hilum.stage": "trial", TRIAL_TAG: str(number)}
    opening = runs.tracked_run(
        going.place.uri, going.place.experiment, f"trial {number}", tags, parent=going.run.run_id
    )
    try:
        task = prepare(
            going.task.dataset, with_settings(going.task.plan, given), Leaks(going.task.leaks)
        )
        with opening as run:
            score, state = _train(going, task, asked, run, progress)
    except TrainingError as error:
        going.say(f"trial {number} failed: {error.what}")
    finished = state == optuna.trial.TrialState.COMPLETE
    seconds = time.monotonic() - started
    asked.set_user_attr("settings", given)
    asked.set_user_attr("seconds", seconds)
    asked.set_user_attr("score", score if math.isfinite(score) else None)
    going.study.tell(asked, score if finished else None, state=state)
    return Trial(number, _word(state), score, given, values, seconds)


def _train(
    going: _Search, task: Task, asked: "optuna.Trial", run: runs.TrackedRun, progress: Progress
) -> tuple[float, Any]:
    import optuna

    run.log_params(settings.flat(task.plan.model_dump(mode="json")))
    tracker = Tracker(run, task, progress, _quiet)
    last = math.nan

    def heard(epoch: int, step: int, metrics: Metrics | None) -> None:
        nonlocal last
        tracker(epoch, step, metrics)
        if metrics is None:
            return
        last = _score(metrics)
        asked.report(last, epoch)
        if asked.should_prune():
            raise _PrunedError

    try:
        fitted = train_network(task, going.world, heard).fitted
    except _PrunedError:
        run.set_tags({"hilum.pruned": "true"})
        run.set_note(f"Stopped: below the median of the earlier trials, tune AUC {last:.4f}.")
        return last, optuna.trial.TrialState.PRUNED
    score = _score(fitted.best)
    run.log_metrics({"best/auc": score, "best/epoch": float(fitted.best_epoch)}, step=0)
    return score, optuna.trial.TrialState.COMPLETE


def _score(metrics: Metrics) -> float:
    # with a class missing from the tune split there is no AUC: the lower loss is better
    area = metrics.get(SCORE, math.nan)
    return area if math.isfinite(area) else -metrics.get("tune/loss", math.inf)


def _counted(going: _Search, budget: Budget, progress: Progress) -> Progress:
    """Return a listener that counts the steps of all trials as one."""

    def counted(done: int, total: int, note: str) -> None:
        now = len(going.trials)
        progress(now * total + done, budget.trials * total, f"trial {now + 1}, {note}")

    return counted


def _in_time(trials: list[Trial], budget: Budget) -> bool:
    if budget.minutes is None or not trials:
        return True
    spent = sum(one.seconds for one in trials)
    return spent + spent / len(trials) <= 60 * budget.minutes


def _open_study(journal: Path) -> "optuna.Study":
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=2)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    return optuna.create_study(
        storage=storage, pruner=pruner, direction="maximize", study_name="search", load_if_exists=True
    )  # fmt: skip


def _mend_cut(study: "optuna.Study") -> None:
    """Mark the trial that was cut by a kill as failed, and put its point in line again."""
    import optuna

    for cut in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(cut.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(cut.params, user_attrs={"again": cut.number})


def _ended(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Return the trials that came to an end of their own, whatever it was: not those that were cut."""
    return [one for one in study.trials if one.state.is_finished() and "seconds" in one.user_attrs]


def _told(number: int, trial: "optuna.trial.FrozenTrial") -> Trial:
    kept = trial.user_attrs
    score = kept.get("score")
    return Trial(
        number,
        _word(trial.state),
        math.nan if score is None else score,
        kept.get("settings", {}),
        dict(trial.params),
        kept.get("seconds", 0.0),
    )


def _word(state: Any) -> str:
    return {"COMPLETE": "complete", "PRUNED": "pruned"}.get(state.name, "failed")


def _unfinished(root: Path, task: Task) -> str:
    """Return the run of a search of the same plan and data that was stopped; empty: there is none."""
    for file in sorted(root.glob(f"*/{BEGUN}")):
        begun = read_begun(file.parent)
        if begun.plan == task.plan and begun.dataset_sha256 == task.info.content_sha256:
            return begun.run_id
    return ""


def _quiet(_text: str) -> None:
    """Say nothing: a line for each epoch of each trial is too much."""
