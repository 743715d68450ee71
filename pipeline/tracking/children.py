"""Runs that are part of another one: the folds of a cross-validation, the trials of a search."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.tracking.store import open_client, translated

PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own tag: its pages fold such runs under their parent."""


@dataclass(frozen=True, slots=True)
class ChildRun:
    """What is known of a run that is part of another."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def finished(self) -> bool:
        """Whether it ended well."""
        return self.status == "FINISHED"


def child_runs(uri: str, parent: str) -> list[ChildRun]:
    """Return the runs that are part of run ``parent``, the newest first.

    Raises
    ------
    TrackingError
        If the store can't be used or has no such run.
    """
    client = open_client(uri)
    children: list[ChildRun] = []
    with translated(uri):
        home = client.get_run(parent).info.experiment_id
        token = None
        while True:
            page = client.search_runs(
                [home],
                f"tags.`{PARENT_TAG}` = '{parent}'",
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            children += [
                ChildRun(found.info.run_id, found.info.status, found.data.tags, found.data.metrics)
                for found in page
            ]
            token = page.token
            if not token:
                return children


def has_artifact(uri: str, run_id: str, name: str) -> bool:
    """Return whether a run holds the artifact ``name`` (a path without a slash).

    Raises
    ------
    TrackingError
        If the store can't be used or has no such run.
    """
    client = open_client(uri)
    with translated(uri):
        return any(entry.path == name for entry in client.list_artifacts(run_id))
