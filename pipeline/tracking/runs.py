"""A run in MLflow that tells the truth: buffered metrics, data set inputs, an honest last status."""

import json
import math
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.dataset import DatasetInfo
from data_schemas.errors import TrackingError
from data_schemas.terms import Split
from data_schemas.version import our_version
from pipeline.tracking import endings
from pipeline.tracking.store import artifact_root, import_quietly, open_client, redacted, translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient

METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*/[A-Za-z0-9_.\-]{1,120}")
"""group/name with exactly one slash: MLflow's charts make one section per group."""
PARAM_LIMIT = 6000
"""MLflow cuts longer values without a word; we refuse them."""
TAG_LIMIT = 8000
SYSTEM_METRICS_EVERY_S = 5.0
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Picks MLflow's view for trained models over the one for language-model traces."""
PARENT_TAG = "mlflow.parentRunId"
"""By this tag MLflow's page shows a run below another one."""


class TrackedRun:
    """One run of one store, addressed by its id; no implicit "active run" anywhere.

    Metrics are buffered: :meth:`flush` writes them in one request. Values that are not finite are
    left out and counted (``run/undefined``): a NaN in MLflow never matches a filter.
    """

    def __init__(
        self,
        client: "MlflowClient",
        uri: str,
        run_id: str,
        experiment_id: str,
        logged: Mapping[str, int] | None = None,
    ) -> None:
        """Log nothing again up to ``logged``: the last step by name, of a run that goes on."""
        self.uri = uri
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.undefined = 0
        self._client = client
        self._buffer: list[Any] = []
        self._logged = dict(logged or {})
        self._last_step: dict[str, int] | None = None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings, once each.

        Raises
        ------
        TrackingError
            If a value is longer than MLflow keeps, or a name was logged with another value.
        """
        from mlflow.entities import Param

        long = [name for name, value in params.items() if len(str(value)) > PARAM_LIMIT]
        if long:
            raise TrackingError(
                f"parameters of over {PARAM_LIMIT} characters: {', '.join(long)}",
                mend="log them as an artifact",
            )
        rows = [Param(name, str(value)) for name, value in params.items()]
        with translated(self.uri):
            for start in range(0, len(rows), 100):
                self._client.log_batch(self.run_id, params=rows[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Buffer metrics. Epochs count from 1; what is measured once has step 0.

        ``step=None`` continues: one past the run's last step of each name, 0 for a new name.

        Raises
        ------
        TrackingError
            If a name is not ``group/name``.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if not METRIC_NAME.fullmatch(name):
                raise TrackingError(f"metric name {name!r} is not group/name with one slash")
            if not math.isfinite(value):
                self.undefined += 1
                continue
            at = self._next_step(name) if step is None else step
            if at <= self._logged.get(name, -1):
                continue
            self._buffer.append(Metric(name, float(value), now, at))

    def log_undefined(self) -> None:
        """Log how many values were left out, once for each time that the run was opened."""
        again = self._logged.get("run/undefined", -1) + 1
        self.log_metrics({"run/undefined": float(self.undefined)}, step=again)

    def flush(self) -> None:
        """Write the buffered metrics: one request for up to 1000 of them."""
        rows, self._buffer = self._buffer, []
        with translated(self.uri):
            for start in range(0, len(rows), 1000):
                self._client.log_batch(self.run_id, metrics=rows[start : start + 1000])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; raises :class:`TrackingError` if one is longer than MLflow keeps."""
        from mlflow.entities import RunTag

        long = [name for name, value in tags.items() if len(value) > TAG_LIMIT]
        if long:
            raise TrackingError(f"tags of over {TAG_LIMIT} characters: {', '.join(long)}")
        with translated(self.uri):
            self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def set_note(self, markdown: str) -> None:
        """Set the text that MLflow shows at the top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Store a matplotlib figure as an image artifact, such as ``figures/roc.png``."""
        with self._staged(path) as file:
            figure.savefig(file, dpi=110)

    def log_text(self, text: str, path: str) -> None:
        """Store ``text`` as an artifact."""
        with self._staged(path) as file:
            file.write_text(text, encoding="utf-8")

    def log_json(self, tree: Any, path: str) -> None:
        """Store plain values as a readable JSON artifact."""
        self.log_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", path)

    def log_files(self, folder: Path, path: str) -> None:
        """Store every file of ``folder`` under the artifact folder ``path``."""
        with translated(self.uri):
            self._client.log_artifacts(self.run_id, str(folder), path)

    def log_dataset(self, info: DatasetInfo, split: Split, rows: int) -> None:
        """Log one split of a data set as an input of the run.

        The digest is the first 32 hex digits of the content digest (MLflow takes 36 at most); the
        whole of it stands in the run's tag ``hilum.dataset_sha256``.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = {
            "images": rows,
            "images_in_all_splits": info.images,
            "patients": info.patients,
            "refused": sum(info.refused.values()),
            "contract": info.contract_name,
        }
        columns = [{"name": label.name, "kind": label.kind} for label in info.labels]
        dataset = Dataset(
            name=f"{info.name}-{split}",
            digest=info.content_sha256[:32],
            source_type="hilum",
            source=json.dumps({"dataset": info.name, "split": split}),
            schema=json.dumps({"size": info.size, "channels": info.channels, "labels": columns}),
            profile=json.dumps(profile),
        )
        context = InputTag("mlflow.data.context", split)
        with translated(self.uri):
            self._client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def download(self, path: str, folder: Path) -> Path:
        """Copy an artifact (a file or a folder) below ``folder`` and return where it lies."""
        return download(self.uri, self.run_id, path, folder)

    def _next_step(self, name: str) -> int:
        if self._last_step is None:
            with translated(self.uri):
                self._last_step = _last_steps(self._client.get_run(self.run_id))
        step = self._last_step.get(name, -1) + 1
        self._last_step[name] = step
        return step

    @contextmanager
    def _staged(self, path: str) -> Iterator[Path]:
        parent, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            yield file
            with translated(self.uri):
                self._client.log_artifact(self.run_id, str(file), parent or None)


@contextmanager
def tracked_run(
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str] | None = None,
    *,
    parent: str = "",
) -> Iterator[TrackedRun]:
    """Open a new run; how the block ends is what the run says.

    FINISHED when the block ends, KILLED on SIGTERM and Ctrl-C, FAILED on anything else, with the
    place of the fault in ``errors/traceback.txt``. Runs of this experiment whose process on this
    machine died without a word (SIGKILL, power) are set to FAILED first.

    With ``parent``, the id of a run of the same experiment, the new run stands below it: a fold, a
    seed or a trial. A parent that ends while children of its failed says so, in the tags
    ``hilum.children`` (``4 FINISHED, 1 FAILED``) and ``hilum.failed_children`` (their ids); whether
    that makes it fail, too, is for its own block to decide.

    Raises
    ------
    TrackingError
        If the store can't be used, or the parent is not an open run of this experiment.
    """
    client = open_client(uri)
    with translated(uri):
        experiment_id = _experiment(client, uri, experiment)
        _close_dead_runs(client, experiment_id)
        if parent:
            _check_parent(client.get_run(parent), experiment_id, uri)
        above = {PARENT_TAG: parent} if parent else {}
        all_tags = {**_source_tags(), **endings.process_tags(), **(tags or {}), **above}
        created = client.create_run(experiment_id, tags=all_tags, run_name=name)
    run = TrackedRun(client, uri, created.info.run_id, experiment_id)
    with _to_its_end(run):
        yield run


@contextmanager
def resumed_run(
    uri: str, run_id: str, tags: Mapping[str, str] | None = None
) -> Iterator[TrackedRun]:
    """Open a run that was stopped, to bring it to its end; it is RUNNING again.

    Metrics up to the last step that it logged, by name, are not logged again. How the block ends
    is what the run says, as in :func:`tracked_run`; the tag ``hilum.resumed`` counts.

    Raises
    ------
    TrackingError
        If the store can't be used, has no such run, or the run has finished.
    """
    client = open_client(uri)
    with translated(uri):
        found = client.get_run(run_id)
        _refuse_finished(found, uri)
        times = int(found.data.tags.get("hilum.resumed", "0")) + 1
        client.update_run(run_id, status="RUNNING")
        if "hilum.last_failure" in found.data.tags:
            client.delete_tag(run_id, "hilum.last_failure")
    run = TrackedRun(client, uri, run_id, found.info.experiment_id, _last_steps(found))
    run.set_tags({**endings.process_tags(), **(tags or {}), "hilum.resumed": str(times)})
    with _to_its_end(run, again=True):
        yield run


@dataclass(frozen=True, slots=True)
class Child:
    """A run below another one, as the store holds it now."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]


def children(uri: str, run_id: str) -> list[Child]:
    """Return the runs below ``run_id``, the oldest first. One whose process died is FAILED by now.

    Raises
    ------
    TrackingError
        If the store can't be used or has no such run.
    """
    client = open_client(uri)
    with translated(uri):
        home = client.get_run(run_id).info.experiment_id
        _close_dead_runs(client, home)
        found = _below(client, home, run_id)
    return [
        Child(
            one.info.run_id,
            one.info.run_name,
            one.info.status,
            dict(one.data.tags),
            dict(one.data.metrics),
        )
        for one in found
    ]


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
            _refuse_finished(found, uri)
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


@contextmanager
def _to_its_end(run: TrackedRun, *, again: bool = False) -> Iterator[None]:
    with endings.stoppable():
        ending: BaseException | None = None
        monitor = None
        try:
            monitor = _watch_system(run, again=again)
            yield
        except BaseException as error:
            ending = error
            raise
        finally:
            with endings.undisturbed():
                _say_last_words(run, monitor, ending)


@contextmanager
def continued_run(uri: str, run_id: str) -> Iterator[TrackedRun]:
    """Open an existing run to add to it; its status stays what it was.

    A run that finished training has finished, even if its evaluation fails later: the fault is
    kept as ``errors/traceback.txt`` and in the tag ``hilum.last_failure``.

    Raises
    ------
    TrackingError
        If the store can't be used or has no such run.
    """
    client = open_client(uri)
    with translated(uri):
        found = client.get_run(run_id)
    run = TrackedRun(client, uri, run_id, found.info.experiment_id)
    with endings.stoppable():
        ending: BaseException | None = None
        try:
            yield run
        except BaseException as error:
            ending = error
            raise
        finally:
            with endings.undisturbed():
                run.flush()
                if ending is not None:
                    run.log_text(endings.traceback_text(ending), "errors/traceback.txt")
                    run.set_tags({"hilum.last_failure": type(ending).__name__})


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


def _below(client: "MlflowClient", experiment_id: str, run_id: str) -> list[Any]:
    found: list[Any] = []
    page = None
    while page is None or page:
        part = client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{PARENT_TAG}` = '{run_id}'",
            order_by=["attributes.start_time ASC"],
            page_token=page or None,
        )
        found += part
        page = part.token or ""
    return found


def _check_parent(found: Any, experiment_id: str, uri: str) -> None:
    if found.info.experiment_id != experiment_id:
        what = "is of another experiment"
    elif found.info.status != "RUNNING":
        what = f"is {found.info.status}: nothing more can stand below it"
    else:
        return
    raise TrackingError(f"run {found.info.run_id} {what}", where=redacted(uri))


def _count_children(run: TrackedRun) -> None:
    client = run._client  # noqa: SLF001 - same module
    with translated(run.uri):
        found = _below(client, run.experiment_id, run.run_id)
    if not found:
        return
    counts = Counter(one.info.status for one in found)
    tags = {"hilum.children": ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))}
    bad = [one.info.run_id for one in found if one.info.status != "FINISHED"]
    if bad:
        tags["hilum.failed_children"] = " ".join(bad)[:TAG_LIMIT]
    run.set_tags(tags)


def _is_file(client: "MlflowClient", run_id: str, path: str) -> bool:
    parent, _, _ = path.rpartition("/")
    return any(entry.path == path for entry in client.list_artifacts(run_id, parent or None))


def _refuse_finished(found: Any, uri: str) -> None:
    if found.info.status == "FINISHED":
        raise TrackingError(
            f"run {found.info.run_id} has finished: there is nothing to go on with",
            where=redacted(uri),
            mend=f"measure it: hilum evaluate {found.info.run_id}",
        )


def _last_steps(found: Any) -> dict[str, int]:
    metrics = found.data._metric_objs  # noqa: SLF001 - the only place that holds steps
    return {metric.key: int(metric.step) for metric in metrics}


def _say_last_words(run: TrackedRun, monitor: Any, ending: BaseException | None) -> None:
    status = endings.status_of(ending)
    try:
        if monitor is not None:
            _stop_watching(monitor)
        run.log_undefined()
        run.flush()
        _count_children(run)
        if ending is not None:
            run.log_text(endings.traceback_text(ending), "errors/traceback.txt")
    finally:
        with translated(run.uri):
            run._client.set_terminated(run.run_id, status=status)  # noqa: SLF001 - same module


def _experiment(client: "MlflowClient", uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            root = artifact_root(uri, name)
            return str(client.create_experiment(name, artifact_location=root, tags=EXPERIMENT_TAGS))
        except MlflowException:
            # another process was faster by a moment
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment `{name}` was deleted; MLflow keeps its name",
            where=redacted(uri),
            mend="use another --experiment, restore it, or run `mlflow gc`",
        )
    return str(found.experiment_id)


def _close_dead_runs(client: "MlflowClient", experiment_id: str) -> None:
    here = f"attributes.status = 'RUNNING' and tags.`hilum.host` = '{endings.host()}'"
    for run in client.search_runs([experiment_id], filter_string=here):
        if endings.is_gone(run.data.tags.get("hilum.process", "")):
            client.set_tag(run.info.run_id, "hilum.last_failure", "process ended without a word")
            client.set_terminated(run.info.run_id, status="FAILED")


def _watch_system(run: TrackedRun, *, again: bool) -> Any:
    import_quietly()
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(
        run.run_id,
        sampling_interval=SYSTEM_METRICS_EVERY_S,
        resume_logging=again,
        tracking_uri=run.uri,
    )
    monitor.start()
    return monitor


def _stop_watching(monitor: Any) -> None:
    monitor.finish()
    # MLflow's thread publishes after each whole interval only: a short run would have nothing
    monitor.collect_metrics()
    monitor.publish_metrics(monitor.aggregate_metrics())
    monitor.mlflow_logger.flush()


def _source_tags() -> dict[str, str]:
    tags = {
        "hilum.version": our_version(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "hilum",
    }
    commit = git_commit()
    return {**tags, "mlflow.source.git.commit": commit} if commit else tags


def git_commit() -> str:
    """Return the commit of the tree that this code runs from, empty for an installed package."""
    git = shutil.which("git")
    root = Path(__file__).resolve().parents[2]
    if git is None or not (root / ".git").exists():
        return ""
    words = [git, "-C", str(root), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
