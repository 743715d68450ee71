"""Runs that are part of another one: the folds of a cross-validation, the trials of a search."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_schemas.errors import TrackingError
from pipeline.tracking.reaper import close_dead_runs
from pipeline.tracking.store import open_client, redacted, translated

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own tag: its pages fold such runs under their parent."""
LISTED = 100
"""So many failed children are named in the parent's tag."""


@dataclass(frozen=True, slots=True)
class ChildRun:
    """What is known of a run that is part of another."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def finished(self) -> bool:
        """Whether it ended well."""
        return self.status == "FINISHED"


def child_runs(uri: str, parent: str) -> list[ChildRun]:
    """Return the runs that are part of run ``parent``, the newest first; the dead are FAILED by now.

    Raises
    ------
    TrackingError
        If the store can't be used or has no such run.
    """
    client = open_client(uri)
    with translated(uri):
        home = client.get_run(parent).info.experiment_id
        close_dead_runs(client, home)
        return [
            ChildRun(
                found.info.run_id,
                found.info.run_name,
                found.info.status,
                dict(found.data.tags),
                dict(found.data.metrics),
            )
            for found in _below(client, home, parent)
        ]


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


def check_parent(client: "MlflowClient", parent: str, experiment_id: str, uri: str) -> None:
    """Raise :class:`TrackingError` unless ``parent`` is an open run of this experiment."""
    found = client.get_run(parent)
    if found.info.experiment_id != experiment_id:
        what = "is of another experiment"
    elif found.info.status != "RUNNING":
        what = f"is {found.info.status}: nothing more can stand below it"
    else:
        return
    raise TrackingError(f"run {parent} {what}", where=redacted(uri))


def tags_of_parent(client: "MlflowClient", experiment_id: str, run_id: str) -> dict[str, str]:
    """Return what a run that ends must say of its children; nothing if it has none."""
    found = _below(client, experiment_id, run_id)
    if not found:
        return {}
    counts = Counter(one.info.status for one in found)
    tags = {"hilum.children": ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))}
    bad = [one.info.run_id for one in found if one.info.status != "FINISHED"]
    if bad:
        tags["hilum.failed_children"] = " ".join(bad[:LISTED])
    return tags


def _below(client: "MlflowClient", experiment_id: str, run_id: str) -> list[Any]:
    found: list[Any] = []
    page = None
    while page is None or page:
        part = client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{PARENT_TAG}` = '{run_id}'",
            order_by=["attributes.start_time DESC"],
            page_token=page or None,
        )
        found += part
        page = part.token or ""
    return found
