"""Roads for what stands beside a run: its model record, that record's figures, its experiment's text.

Like every road of :mod:`pipeline.tracking.delivery` these may be taken twice with the same letter.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RECORD_TAG = "hilum.model"
"""The run's tag that holds the id of its model record."""
NOTE = "mlflow.note.content"


def add_record(client: "MlflowClient", run_id: str, body: dict[str, Any], files: Path) -> None:
    """Make the run's model record with the documents in the letter's folder; one for each run."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    lies = files / body["lies"]
    if RECORD_TAG in run.data.tags or not lies.exists():
        return
    # "external" is MLflow's word for a model in no flavour of its own: ours is ONNX and documents
    record = client.create_logged_model(
        run.info.experiment_id,
        name=body["name"],
        source_run_id=run_id,
        tags={"mlflow.model.isExternal": "true", **body["tags"]},
        params=body["params"],
        model_type="hilum-package",
    )
    client.log_model_artifacts(record.model_id, str(lies))
    client.finalize_logged_model(record.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(record.model_id, step=0)])
    client.set_tag(run_id, RECORD_TAG, record.model_id)


def add_figures(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    """Bind metrics to the record and to the data set they were measured on; set the record's text."""
    from mlflow.entities import Metric

    # a run of an earlier version has no record
    model_id = client.get_run(run_id).data.tags.get(RECORD_TAG, "")
    if not model_id:
        return
    name, digest = body["dataset"]
    rows = [
        Metric(key, value, body["at"], 0, model_id, name, digest, run_id)
        for key, value in body["rows"].items()
    ]
    client.log_batch(run_id, metrics=rows)
    if body["note"]:
        client.set_logged_model_tags(model_id, {NOTE: body["note"]})


def describe(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    """Set tags of the run's experiment; what somebody set there before stays."""
    home = client.get_run(run_id).info.experiment_id
    known = client.get_experiment(home).tags
    for key, value in body["tags"].items():
        if key not in known:
            client.set_experiment_tag(home, key, value)
