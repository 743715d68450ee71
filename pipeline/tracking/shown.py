"""What MLflow's pages show beside numbers: pictures by step, tables, an experiment's view, models."""

import io
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.tracking.outbox import now_ms
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.showing import NOTE
from pipeline.tracking.store import open_client, translated

VIEW = "mlflow.sharedViewState.review"
"""The experiment's tag behind the saved view `Review` (MLflow 3.17: Views, above the list)."""
WORKFLOW = "workflowType=machine_learning"
"""MLflow 3.17 opens every new browser in its pages for language models; this asks for the others."""


def log_image(run: TrackedRun, pixels: NDArray[np.uint8], key: str, step: int) -> None:
    """Show a picture [H, W, 3] or [H, W, 1] in the image grid, under ``key`` at ``step``."""
    with run.file_to_come() as (lies, body):
        picture = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(picture, "PNG")
        (lies / "pixels.png").write_bytes(picture.getvalue())
        body |= {"key": key, "step": step, "at": now_ms()}
    run.hand_over("image", body)


def log_table(
    run: TrackedRun, columns: Sequence[str], rows: Iterable[Sequence[Any]], path: str
) -> None:
    """Store a table as MLflow's own view of tables reads it, in place of an earlier one.

    MLflow's ``log_table`` appends to what is there: a second evaluation would stand below the first.
    """
    table = {"columns": list(columns), "data": [list(row) for row in rows]}
    run.log_text(json.dumps(table), path)
    run.hand_over("table", {"path": path})


def tags_of(run: TrackedRun) -> dict[str, str]:
    """Return the run's tags as they stand in the store."""
    with translated(run.uri):
        return dict(open_client(run.uri).get_run(run.run_id).data.tags)


def describe_experiment(run: TrackedRun, markdown: str, columns: Sequence[str]) -> None:
    """Say how the experiment's list is read, and save a view of it with chosen columns.

    What a person wrote there stays. ``columns`` are MLflow's names, such as ``metrics.`test/auc```.
    """
    state = {"selectedColumns": list(columns), "orderByKey": "attributes.start_time"}
    now = int(time.time() * 1000)
    view = {"name": "Review", "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    run.hand_over("experiment", {"rows": {NOTE: markdown, VIEW: json.dumps(view)}})


def record_model(
    run: TrackedRun, name: str, documents: Path, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Make the run's model record, the page on which metrics and data sets of a model stand.

    It holds the files of the folder ``documents``; the weights come with ``hilum register``, which
    completes this very record. A run that goes on after its record was made keeps it.
    """
    named = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    with run.file_to_come() as (lies, body):
        shutil.copytree(documents, lies, dirs_exist_ok=True)
        body |= {"name": named, "params": dict(params), "tags": dict(tags)}
    run.hand_over("model", body)


def log_model_metrics(
    run: TrackedRun, metrics: Mapping[str, float], dataset: str, digest: str
) -> None:
    """Bind metrics to the run's model record and the data set they were measured on.

    Without a record (a run of an earlier version) nothing happens.
    """
    finite = {name: float(value) for name, value in metrics.items() if np.isfinite(value)}
    if finite:
        body = {"rows": finite, "at": now_ms(), "dataset": dataset, "digest": digest[:32]}
        run.hand_over("model_metrics", body)


def set_model_note(run: TrackedRun, text: str) -> None:
    """Set the text at the top of the model record's page, if the run has one."""
    run.hand_over("model_note", {"text": text})


def link(run: TrackedRun, path: str) -> str:
    """Return the address of an artifact's page, relative to MLflow's own page."""
    return f"#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page on an MLflow server."""
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"
