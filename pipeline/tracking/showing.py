"""Letters about what MLflow's pages show beside numbers: pictures by step, tables, models, an experiment.

Each road looks at what the store holds first, so that a letter which comes twice changes nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NOTE = "mlflow.note.content"
TABLES = "mlflow.loggedArtifacts"
"""The run's tag that names the artifacts which MLflow's table view opens."""
RECORD_TAG = "hilum.model"
"""The run's tag that holds the id of its model record."""


def _image(client: "MlflowClient", run_id: str, body: dict[str, Any], files: Path) -> None:
    from PIL import Image

    lies = files / body["lies"] / "pixels.png"
    if lies.exists():
        key, step, at = body["key"], body["step"], body["at"]
        with Image.open(lies) as picture:
            client.log_image(run_id, picture, key=key, step=step, timestamp=at, synchronous=True)


def _table(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    named = json.loads(client.get_run(run_id).data.tags.get(TABLES, "[]"))
    entry = {"path": body["path"], "type": "table"}
    if entry not in named:
        client.set_tag(run_id, TABLES, json.dumps([*named, entry]))


def _experiment(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    home = client.get_run(run_id).info.experiment_id
    known = client.get_experiment(home).tags
    for key, value in body["rows"].items():
        if key not in known:  # what a person wrote there stays
            client.set_experiment_tag(home, key, value)


def _model(client: "MlflowClient", run_id: str, body: dict[str, Any], files: Path) -> None:
    from mlflow.entities import LoggedModelOutput

    found = client.get_run(run_id)
    lies = files / body["lies"]
    if found.data.tags.get(RECORD_TAG) or not lies.exists():
        return
    # "external" is MLflow's word for a model in no flavour of its own: ours is ONNX and documents
    record = client.create_logged_model(
        found.info.experiment_id,
        name=body["name"],
        source_run_id=run_id,
        tags={"mlflow.model.isExternal": "true", **body["tags"]},
        params=body["params"],
        model_type="hilum-package",
    )
    client.log_model_artifacts(record.model_id, str(lies))
    client.finalize_logged_model(record.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(record.model_id, step=0)])
    client.set_tag(run_id, RECORD_TAG, str(record.model_id))


def _model_metrics(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    from mlflow.entities import Metric

    model_id = client.get_run(run_id).data.tags.get(RECORD_TAG, "")
    if model_id:
        rows = [
            Metric(name, value, body["at"], 0, model_id, body["dataset"], body["digest"], run_id)
            for name, value in body["rows"].items()
        ]
        client.log_batch(run_id, metrics=rows)


def _model_note(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    model_id = client.get_run(run_id).data.tags.get(RECORD_TAG, "")
    if model_id:
        client.set_logged_model_tags(model_id, {NOTE: body["text"]})


ROADS: dict[str, Callable[["MlflowClient", str, dict[str, Any], Path], None]] = {
    "image": _image,
    "table": _table,
    "experiment": _experiment,
    "model": _model,
    "model_metrics": _model_metrics,
    "model_note": _model_note,
}
