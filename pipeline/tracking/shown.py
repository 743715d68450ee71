"""What MLflow's pages show beside numbers: pictures by step, tables, an experiment's view, models."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tracking.registry import RECORD_TAG
from pipeline.tracking.runs import TrackedRun
from pipeline.tracking.store import open_client, translated

NOTE = "mlflow.note.content"
TABLES = "mlflow.loggedArtifacts"
"""The run's tag that names the artifacts which MLflow's table view opens."""
VIEW = "mlflow.sharedViewState.review"
"""The experiment's tag behind the saved view `Review` (MLflow 3.17: Views, above the list)."""
WORKFLOW = "workflowType=machine_learning"
"""MLflow 3.17 opens every new browser in its pages for language models; this asks for the others."""


def log_image(run: TrackedRun, pixels: NDArray[np.uint8], key: str, step: int) -> None:
    """Show a picture [H, W, 3] or [H, W, 1] in the image grid, under ``key`` at ``step``."""
    with translated(run.uri):
        open_client(run.uri).log_image(run.run_id, pixels, key=key, step=step, synchronous=True)


def log_table(
    run: TrackedRun, columns: Sequence[str], rows: Iterable[Sequence[Any]], path: str
) -> None:
    """Store a table as MLflow's own view of tables reads it, in place of an earlier one.

    MLflow's ``log_table`` appends to what is there: a second evaluation would stand below the first.
    """
    table = {"columns": list(columns), "data": [list(row) for row in rows]}
    run.log_text(json.dumps(table), path)
    client = open_client(run.uri)
    with translated(run.uri):
        named = json.loads(client.get_run(run.run_id).data.tags.get(TABLES, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in named:
            client.set_tag(run.run_id, TABLES, json.dumps([*named, entry]))


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
    client = open_client(run.uri)
    with translated(run.uri):
        known = client.get_experiment(run.experiment_id).tags
        for key, value in ((NOTE, markdown), (VIEW, json.dumps(view))):
            if key not in known:
                client.set_experiment_tag(run.experiment_id, key, value)


def record_model(
    run: TrackedRun, name: str, documents: Path, params: Mapping[str, str], tags: Mapping[str, str]
) -> str:
    """Make the run's model record, the page on which metrics and data sets of a model stand.

    It holds the files of the folder ``documents``; the weights come with ``hilum register``, which
    completes this very record. A run that goes on after its record was made keeps it.

    Returns
    -------
    str
        The record's id.
    """
    from mlflow.entities import LoggedModelOutput

    known = tags_of(run).get(RECORD_TAG, "")
    if known:
        return known
    client = open_client(run.uri)
    with translated(run.uri):
        # "external" is MLflow's word for a model in no flavour of its own: ours is ONNX and documents
        record = client.create_logged_model(
            run.experiment_id,
            name="".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name),
            source_run_id=run.run_id,
            tags={"mlflow.model.isExternal": "true", **tags},
            params=dict(params),
            model_type="hilum-package",
        )
        client.log_model_artifacts(record.model_id, str(documents))
        client.finalize_logged_model(record.model_id, "READY")
        client.log_outputs(run.run_id, [LoggedModelOutput(record.model_id, step=0)])
    run.set_tags({RECORD_TAG: str(record.model_id)})
    return str(record.model_id)


def log_model_metrics(
    run: TrackedRun, metrics: Mapping[str, float], dataset: str, digest: str
) -> None:
    """Bind metrics to the run's model record and the data set they were measured on.

    Without a record (a run of an earlier version) nothing happens.
    """
    from mlflow.entities import Metric

    model_id = tags_of(run).get(RECORD_TAG, "")
    finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
    if not model_id or not finite:
        return
    now = int(time.time() * 1000)
    rows = [
        Metric(name, float(value), now, 0, model_id, dataset, digest[:32], run.run_id)
        for name, value in finite.items()
    ]
    with translated(run.uri):
        open_client(run.uri).log_batch(run.run_id, metrics=rows)


def set_model_note(run: TrackedRun, text: str) -> None:
    """Set the text at the top of the model record's page, if the run has one."""
    model_id = tags_of(run).get(RECORD_TAG, "")
    if model_id:
        with translated(run.uri):
            open_client(run.uri).set_logged_model_tags(model_id, {NOTE: text})


def link(run: TrackedRun, path: str) -> str:
    """Return the address of an artifact's page, relative to MLflow's own page."""
    return f"#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page on an MLflow server."""
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"
