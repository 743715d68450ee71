"""Runs below a run: folds, seeds and trials, and what their parent says of how they ended."""

import pytest

from data_schemas.errors import TrackingError
from pipeline.tracking import store
from pipeline.tracking.children import child_runs
from pipeline.tracking.runs import tracked_run


def tags(uri, run_id):
    return store.open_client(uri).get_run(run_id).data.tags


def test_a_parent_whose_child_failed_does_not_finish_silently(mlflow_uri):
    def fold(parent, number):
        with tracked_run(mlflow_uri, "eyes", f"fold {number}", parent=parent.run_id) as run:
            run.log_metrics({"tune/auc": 0.8 + number / 100}, step=1)
            if number == 2:
                raise ZeroDivisionError
        return run

    with tracked_run(mlflow_uri, "eyes", "folds") as parent:
        fold(parent, 1)
        with pytest.raises(ZeroDivisionError):
            fold(parent, 2)
        fold(parent, 3)
    found = child_runs(mlflow_uri, parent.run_id)
    assert [(one.name, one.status) for one in found] == [
        ("fold 3", "FINISHED"),
        ("fold 2", "FAILED"),
        ("fold 1", "FINISHED"),
    ]
    assert found[0].metrics["tune/auc"] == pytest.approx(0.83)
    assert all(one.tags["mlflow.parentRunId"] == parent.run_id for one in found)
    said = tags(mlflow_uri, parent.run_id)
    assert said["hilum.children"] == "1 FAILED, 2 FINISHED"
    assert said["hilum.failed_children"] == found[1].run_id


def test_a_child_that_is_not_caught_fails_its_parent_too(mlflow_uri):
    kept = []

    def search():
        with tracked_run(mlflow_uri, "eyes", "search") as parent:
            kept.append(parent.run_id)
            with tracked_run(mlflow_uri, "eyes", "trial", parent=parent.run_id):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    (child,) = child_runs(mlflow_uri, kept[0])
    assert child.status == "KILLED"
    assert store.open_client(mlflow_uri).get_run(kept[0]).info.status == "KILLED"
    assert tags(mlflow_uri, kept[0])["hilum.failed_children"] == child.run_id


def test_a_run_without_children_says_nothing_of_them(mlflow_uri):
    with tracked_run(mlflow_uri, "eyes", "alone") as run:
        pass
    assert child_runs(mlflow_uri, run.run_id) == []
    assert "hilum.children" not in tags(mlflow_uri, run.run_id)


def test_a_child_needs_an_open_parent_in_its_own_experiment(mlflow_uri):
    with (
        tracked_run(mlflow_uri, "eyes", "parent") as parent,
        pytest.raises(TrackingError, match="of another experiment"),
        tracked_run(mlflow_uri, "chests", "child", parent=parent.run_id),
    ):
        pass
    with (
        pytest.raises(TrackingError, match="is FINISHED"),
        tracked_run(mlflow_uri, "eyes", "late", parent=parent.run_id),
    ):
        pass
    with (
        pytest.raises(TrackingError),
        tracked_run(mlflow_uri, "eyes", "lost", parent="0" * 32),
    ):
        pass
