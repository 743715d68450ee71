"""What MLflow's pages show beside numbers: pictures by step, tables, an experiment's view, models."""

import json
import math
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.tracking.outbox import now_ms
from pipeline.tracking.records import NOTE
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.store import open_client, translated

TABLES, IMAGES = "mlflow.loggedArtifacts", "mlflow.loggedImages"
"""The run's tags behind MLflow's views of tables and of pictures."""
VIEW = "mlflow.sharedViewState.review"
"""The experiment's tag behind the saved view `Review` (MLflow 3.17: Views, above the list)."""
WORKFLOW = "workflowType=machine_learning"
"""MLflow 3.17 opens every new browser in its pages for language models; this asks for the others."""
WIDEST = 900
"""Pixels of a chart's picture; MLflow's own 256 px are too few for a sheet."""


def log_image(run: TrackedRun, pixels: NDArray[np.uint8], key: str, step: int) -> None:
    """Show a picture [H, W, 3] among the charts, under ``key`` at ``step``.

    A key with a slash makes a section of its own, which the search above the charts never hides.

    Its two files are named as MLflow 3.17's ``log_image`` names them (client.py), which itself
    would not wait in the outbox while the store is away.
    """
    picture = Image.fromarray(pixels)
    name = f"{key}+step+{step}+timestamp+{now_ms()}+{uuid.uuid4()}"
    with run.staged(f"images/{name}.png") as file:
        picture.save(file, optimize=True)
    with run.staged(f"images/{name}+compressed.webp") as file:
        picture.thumbnail((WIDEST, WIDEST))
        picture.save(file, quality=85)
    run.set_tags({IMAGES: "true"})


def log_tables(run: TrackedRun, tables: Mapping[str, Mapping[str, Sequence[object]]]) -> None:
    """Store tables (path -> columns), each in place of an earlier one of its path.

    MLflow's own ``log_table`` appends: a second evaluation would stand below the first.
    """
    for path, columns in tables.items():
        run.log_table(columns, path)
    run.set_tags({TABLES: json.dumps([{"path": path, "type": "table"} for path in run.tables])})


def tags_of(run: TrackedRun) -> dict[str, str]:
    """Return the run's tags as they stand in the store."""
    with translated(run.uri):
        return dict(open_client(run.uri).get_run(run.run_id).data.tags)


def describe_experiment(run: TrackedRun, markdown: str, columns: Sequence[str]) -> None:
    """Say how the experiment's list is read, and save a view of it with chosen columns.

    What a person wrote there stays. ``columns`` are MLflow's names, such as ``metrics.`test/auc```.
    """
    state = {"selectedColumns": list(columns), "orderByKey": "attributes.start_time"}
    now = now_ms()
    view = {"name": "Review", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    run.tell("experiment", {"tags": {NOTE: markdown, VIEW: json.dumps(view)}})


def record_model(
    run: TrackedRun, name: str, documents: Path, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Make the run's model record, the page on which figures and data sets of a model stand.

    It holds the files of the folder ``documents``; the weights come with ``hilum register``, which
    completes this very record. A run that goes on after its record was made keeps it.
    """
    allowed = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    body: dict[str, Any] = {"name": allowed, "params": dict(params), "tags": dict(tags)}
    with run.place_for_files() as lies:
        shutil.copytree(documents, lies, dirs_exist_ok=True)
    run.tell("model", {**body, "lies": lies.name})


def log_model_metrics(
    run: TrackedRun, metrics: Mapping[str, float], dataset: str, digest: str, note: str = ""
) -> None:
    """Bind metrics to the run's model record and the data set they are of; ``note`` is its text."""
    rows = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    body = {"rows": rows, "dataset": [dataset, digest[:32]], "at": now_ms(), "note": note}
    run.tell("figures", body)


def link(run: TrackedRun, path: str) -> str:
    """Return the address of an artifact's page, relative to MLflow's own page."""
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"
    return f"{page}?{WORKFLOW}"
