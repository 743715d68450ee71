"""Runs that are there already: stopped ones to go on with, finished ones to read, their artifacts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import TrackingError
from pipeline.tracking.store import open_client, redacted, translated

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def stopped_run(uri: str, run_id: str, experiment: str) -> tuple[str, dict[str, str]]:
    """Return id and tags of a training run that has not finished.

    ``run_id`` may be ``last``: the newest one of ``experiment``.

    Raises
    ------
    TrackingError
        If there is no such run, or it has finished.
    """
    client = open_client(uri)
    with translated(uri):
        if run_id != "last":
            found = client.get_run(run_id)
            refuse_finished(found, uri)
            return run_id, dict(found.data.tags)
        home = client.get_experiment_by_name(experiment)
        which = "attributes.status != 'FINISHED' and tags.`hilum.stage` = 'train'"
        newest = ["attributes.start_time DESC"]
        open_runs = (
            client.search_runs([home.experiment_id], which, max_results=1, order_by=newest)
            if home is not None
            else []
        )
    if not open_runs:
        raise TrackingError(
            f"experiment `{experiment}` holds no training run that was stopped",
            where=redacted(uri),
            mend="name the run, or its --experiment",
        )
    return open_runs[0].info.run_id, dict(open_runs[0].data.tags)


def download(uri: str, run_id: str, path: str, folder: Path) -> Path:
    """Copy a run's artifact (file or folder) below ``folder`` and return where it lies.

    Raises
    ------
    TrackingError
        If there is no such run or artifact.
    """
    client = open_client(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with translated(uri):
        if not client.list_artifacts(run_id, path) and not _is_file(client, run_id, path):
            raise TrackingError(
                f"run {run_id} has no artifact `{path}`",
                where=redacted(uri),
                mend="check the run's status and artifacts on its MLflow page",
            )
        return Path(client.download_artifacts(run_id, path, str(folder)))


def finished_run(uri: str, run_id: str) -> dict[str, str]:
    """Return the tags of a run that ended well.

    Raises
    ------
    TrackingError
        If the run doesn't exist, still runs, failed or was killed.
    """
    client = open_client(uri)
    with translated(uri):
        found = client.get_run(run_id)
    if found.info.status != "FINISHED":
        raise TrackingError(
            f"run {run_id} is {found.info.status}, not FINISHED",
            where=redacted(uri),
            mend="train again, or choose a run that finished",
        )
    return dict(found.data.tags)


def _is_file(client: "MlflowClient", run_id: str, path: str) -> bool:
    parent, _, _ = path.rpartition("/")
    return any(entry.path == path for entry in client.list_artifacts(run_id, parent or None))


def refuse_finished(found: Any, uri: str) -> None:
    """Raise :class:`TrackingError` if the run has finished."""
    if found.info.status == "FINISHED":
        raise TrackingError(
            f"run {found.info.run_id} has finished: there is nothing to go on with",
            where=redacted(uri),
            mend=f"measure it: hilum evaluate {found.info.run_id}",
        )
