"""A cross-validation from end to end: one run for all folds, one run of its own for each of them.

The parent run is FINISHED when every fold is. A fold that has finished is never trained again, one
that was stopped goes on from its checkpoint; figures of all folds together come from the
predictions that each fold's own package made of the images that it never saw.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from data_schemas.card import Interval
from data_schemas.errors import TrackingError
from data_schemas.plan import Plan
from data_schemas.progress import Progress, silent
from pipeline.evaluate.evaluate import evaluate_run
from pipeline.evaluate.out_of_fold import FoldAnswers, kept_answers, pooled_statistics
from pipeline.ingest.store import Dataset
from pipeline.tracking import runs
from pipeline.tracking.children import ChildRun, child_runs, has_artifact
from pipeline.train import cross_pages
from pipeline.train.course import Course
from pipeline.train.folds import Fold, make_folds
from pipeline.train.run import Place, assist, opened, train
from pipeline.train.state import BEGUN
from pipeline.train.task import prepare
from pipeline.train.tracker import Say
from pipeline.train.world import World

FOLDS_TAG, FOLD_TAG = "hilum.folds", "hilum.fold"
MEASURED = "evaluation.json"
_ONE, _NONE = b"1", b"0"


@dataclass(frozen=True)
class CrossValidated:
    """What a finished cross-validation is known by."""

    run_id: str
    folds: tuple[FoldAnswers, ...]
    statistics: dict[str, Interval]
    notes: tuple[str, ...]
    seconds: float  # spent on training, all folds together


def cross_validate(
    dataset: Dataset, plan: Plan, place: Place, world: World, progress: Progress, say: Say
) -> CrossValidated:
    """Train and measure ``plan.folds`` networks, each on the others' patients, in runs of their own.

    ``progress`` counts the steps of all folds. With ``place.resume`` the cross-validation that was
    stopped goes on: finished folds are read, not trained.

    Raises
    ------
    TrainingError
        If plan and data don't fit, the folds leak, or a run can't go on.
    TrackingError
        If MLflow can't be used.
    """
    made = make_folds(dataset, plan, progress)
    for remark in made.notes:
        say(f"note: {remark}")
    tasks = [prepare(fold.dataset, plan, fold.leaks) for fold in made.folds]
    tags = {FOLDS_TAG: str(plan.folds)}
    parent = replace(place, tags={**place.tags, **tags})
    with opened(tasks[0], parent, world, say) as (run, _):
        cross_pages.log_start(run, tasks[0], plan)
        steps = _Steps([Course(task).total for task in tasks], progress)
        for fold, task in zip(made.folds, tasks, strict=True):
            known = _of_fold(child_runs(place.uri, run.run_id), fold.number)
            own = replace(
                place,
                name=fold.name,
                parent=run.run_id,
                tags={FOLD_TAG: str(fold.number), **tags},
                resume=_goes_on(known, place.state),
            )
            if known is None or not known.finished:
                world.hand_out(_ONE)
                say(f"{fold.name}: {len(task.rows['train'])} images to train on")
                with steps.of(fold) as counted:
                    train(fold.dataset, plan, own, world, counted, say, fold.leaks)
            else:
                world.hand_out(_NONE)
                say(f"{fold.name}: run {known.run_id} has finished")
            _measure(fold, run, say)
        folds = tuple(_answers(fold, run) for fold in made.folds)
        notes = (*made.notes, *tasks[0].notes)
        found = pooled_statistics(folds, dataset.info)
        cross_pages.log_end(run, tasks[0], folds, found, notes)
    seconds = sum(fold.seconds for fold in folds)
    return CrossValidated(run.run_id, folds, found, notes, seconds)


def assist_folds(dataset: Dataset, plan: Plan, world: World) -> None:
    """Do the share of a process that isn't the first of its world, in every fold that is trained."""
    for fold in make_folds(dataset, plan, silent).folds:
        if world.hand_out(b"") == _ONE:
            assist(fold.dataset, plan, world, fold.leaks)


class _Steps:
    """Counts the steps of all folds as one, so that the time left is that of the whole."""

    def __init__(self, steps: list[int], progress: Progress) -> None:
        self._steps, self._progress = steps, progress

    @contextmanager
    def of(self, fold: Fold) -> Iterator[Progress]:
        before, total = sum(self._steps[: fold.number]), sum(self._steps)

        def counted(done: int, _: int, note: str) -> None:
            self._progress(before + done, total, f"{fold.name}, {note}")

        # what was done before this call of the command isn't told: the time left follows from the rest
        yield counted
        # a fold that stopped early is whole, too
        self._progress(before + self._steps[fold.number], total, fold.name)


def _of_fold(children: list[ChildRun], number: int) -> ChildRun | None:
    own = [child for child in children if child.tags.get(FOLD_TAG) == str(number)]
    return next((child for child in own if child.finished), own[0] if own else None)


def _goes_on(known: ChildRun | None, state: Path | None) -> str:
    """Return the run of a fold that was stopped; empty where it must begin anew."""
    if known is None or known.finished or state is None:
        return ""
    return known.run_id if (state / known.run_id / BEGUN).is_file() else ""


def _finished(fold: Fold, run: runs.TrackedRun) -> ChildRun:
    known = _of_fold(child_runs(run.uri, run.run_id), fold.number)
    if known is None or not known.finished:
        raise TrackingError(f"{fold.name} has no finished run", where=f"run {run.run_id}")
    return known


def _measure(fold: Fold, run: runs.TrackedRun, say: Say) -> None:
    child = _finished(fold, run).run_id
    if has_artifact(run.uri, child, MEASURED):
        return
    say(f"{fold.name}: measuring its test images")
    evaluate_run(child, fold.dataset, run.uri, silent)


def _answers(fold: Fold, run: runs.TrackedRun) -> FoldAnswers:
    child = _finished(fold, run)
    with tempfile.TemporaryDirectory() as scratch:
        answers = kept_answers(run.uri, child.run_id, fold.dataset, Path(scratch))
    sources = fold.dataset.manifest["source_sha256"].take(pa.array(answers.indices)).to_pylist()
    return FoldAnswers(
        number=fold.number,
        run_id=child.run_id,
        answers=answers,
        sources=tuple(sources),
        best_epoch=round(child.metrics.get("best/epoch", 0.0)),
        seconds=child.metrics.get("time/total_s", 0.0),
    )
