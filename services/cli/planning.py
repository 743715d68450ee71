"""Which plan a training follows: the data set's own, made by the first process if there is none."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas import settings
from data_schemas.errors import TrainingError, UsageError
from services.cli.console import Console

if TYPE_CHECKING:
    from pipeline.ingest.store import Dataset

PLAN_WAIT_S = 600.0
"""How long the other processes wait for the plan that the first one makes."""


def planned(
    options: argparse.Namespace, dataset: "Dataset", place: tuple[int, int], console: Console
) -> settings.Layer:
    """Return DATASET/plan.yaml as a layer of settings; the first process makes it if there is none.

    ``place`` is this process's rank and how many processes there are. A run that goes on by its own
    plan needs none.
    """
    from pipeline.train.plan.write import PLAN_FILE, inspect

    path = options.dataset / PLAN_FILE
    rank, size = place
    if options.resume and (not options.assignments or not path.exists()):
        return settings.Layer({})  # it goes on by its own plan
    if not path.exists() and rank > 0:
        _wait_for(path)
    elif not path.exists():
        console.say(f"no {path}: making it, as `hilum plan {options.dataset}` does ...")
        layer = _make_plan(dataset, path, size, console)
        if layer is not None:
            return layer
    elif inspect(path).dataset not in ("", dataset.info.content_sha256[:16]):
        console.say(
            f"note: {path} was made for other images; to make it anew: hilum plan {options.dataset}"
        )
    return settings.from_file(path)


def _make_plan(
    dataset: "Dataset", path: Path, size: int, console: Console
) -> settings.Layer | None:
    """Write the plan; return it as a layer where the folder can't be written to."""
    from pipeline.train.plan.make import Request, make_plan
    from pipeline.train.plan.write import summary, write_plan

    made = make_plan(dataset, Request(settings.Layer({})))
    console.say(summary(made.estimate))
    try:
        write_plan(path, made.text, made.fingerprint)
    except UsageError as error:
        if size > 1:  # the others wait for it
            raise
        console.say(f"note: {path} {error.what}; the plan is in the run only")
        return settings.from_text(made.text, str(path))
    return None


def _wait_for(path: Path) -> None:
    """Wait until the first process has written the plan, which appears whole."""
    end = time.monotonic() + PLAN_WAIT_S
    while not path.exists():
        if time.monotonic() > end:
            raise UsageError(
                "the first process has not written the plan",
                where=path,
                mend="make it first: hilum plan DATASET; every machine must see the same file",
            )
        time.sleep(0.1)


@contextmanager
def placed(layers: list[settings.Layer]) -> Iterator[None]:
    """Give an error that names a setting as its place the file and line where that was set."""
    try:
        yield
    except TrainingError as error:
        key = tuple((error.where or "").split("."))
        places = [layer.places[key] for layer in layers if key in layer.places]
        if places:
            error.where = f"{places[-1]}: {error.where}"
        raise


def refuse_no_folder(folder: Path) -> None:
    """Raise :class:`UsageError` if there is no such data set folder."""
    if not folder.is_dir():
        raise UsageError(
            "no such data set folder",
            where=folder,
            mend="write one: hilum ingest SOURCE --labels LABELS --out DATASET",
        )
