"""A run in MLflow that tells the truth: buffered metrics, data set inputs, an honest last status."""

import contextlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.dataset import DatasetInfo
from data_schemas.errors import TrackingError
from data_schemas.terms import Split
from pipeline.tracking import endings
from pipeline.tracking.children import PARENT_TAG, check_parent, tags_of_parent
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.finding import download, refuse_finished
from pipeline.tracking.outbox import BOX, box_of, now_ms
from pipeline.tracking.outbox import opened as outbox_at
from pipeline.tracking.reaper import OUTBOX_TAG, close_dead_runs
from pipeline.tracking.sender import Say, Sender, silent
from pipeline.tracking.sending import send
from pipeline.tracking.source import git_commit as git_commit
from pipeline.tracking.source import process_tags, source_tags
from pipeline.tracking.store import experiment_named, open_client, redacted, translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*/[A-Za-z0-9_.\-]{1,120}")
"""group/name with exactly one slash: MLflow's charts make one section per group."""
PARAM_LIMIT = 6000
"""MLflow cuts longer values without a word; we refuse them."""
TAG_LIMIT = 8000


class TrackedRun:
    """One run of one store, addressed by its id; no implicit "active run" anywhere.

    What is logged is written down in the run's outbox and sent by a thread of its own; see
    :meth:`post` and :meth:`flush`. Values that are not finite are left out and counted
    (``run/undefined``): a NaN in MLflow never matches a filter.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        experiment_id: str,
        sender: Sender,
        logged: Mapping[str, int] | None = None,
    ) -> None:
        """Log nothing again up to ``logged``: the last step by name, of a run that goes on."""
        self.uri = uri
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.undefined = 0
        self.tables: list[
            str
        ] = []  # paths of those logged here: MLflow shows the ones that a tag names
        self._sender = sender
        self._buffer: list[tuple[str, float, int, int]] = []
        self._logged = dict(logged or {})
        self._last_step: dict[str, int] | None = None

    @property
    def busy_s(self) -> float:
        """Processor time, in seconds, that the sending thread has used."""
        return self._sender.busy_s

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings, once each.

        Raises
        ------
        TrackingError
            If a value is longer than MLflow keeps; later, if a name was logged with another value.
        """
        long = [name for name, value in params.items() if len(str(value)) > PARAM_LIMIT]
        if long:
            raise TrackingError(
                f"parameters of over {PARAM_LIMIT} characters: {', '.join(long)}",
                mend="log them as an artifact",
            )
        self._sender.post("params", {"rows": {name: str(value) for name, value in params.items()}})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Buffer metrics. Epochs count from 1; what is measured once has step 0.

        ``step=None`` continues: one past the run's last step of each name, 0 for a new name.

        Raises
        ------
        TrackingError
            If a name is not ``group/name``.
        """
        now = now_ms()
        for name, value in metrics.items():
            if not METRIC_NAME.fullmatch(name):
                raise TrackingError(f"metric name {name!r} is not group/name with one slash")
            if not math.isfinite(value):
                self.undefined += 1
                continue
            at = self._next_step(name) if step is None else step
            if at <= self._logged.get(name, -1):
                continue
            self._buffer.append((name, float(value), now, at))

    def log_undefined(self) -> None:
        """Log how many values were left out, once for each time that the run was opened."""
        again = self._logged.get("run/undefined", -1) + 1
        self.log_metrics({"run/undefined": float(self.undefined)}, step=again)

    def post(self) -> None:
        """Write the buffered metrics down, as one request, and don't wait until they are sent.

        Raises :class:`TrackingError` if the store refused for good what was logged earlier.
        """
        rows, self._buffer = self._buffer, []
        if rows:
            self._sender.post("metrics", {"rows": rows})

    def flush(self) -> None:
        """Post, and wait until the store has everything.

        While the store is away, a run with an outbox doesn't wait: what it logged does.

        Raises
        ------
        TrackingError
            If the store refused something for good, or is away and the run has no outbox.
        """
        self.post()
        away = self._sender.flush()
        if away is not None and not self._sender.patient:
            raise away

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; raises :class:`TrackingError` if one is longer than MLflow keeps."""
        long = [name for name, value in tags.items() if len(value) > TAG_LIMIT]
        if long:
            raise TrackingError(f"tags of over {TAG_LIMIT} characters: {', '.join(long)}")
        self._sender.post("tags", {"rows": dict(tags)})

    def set_note(self, markdown: str) -> None:
        """Set the text that MLflow shows at the top of the run's page."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Store a matplotlib figure as an image artifact, such as ``figures/roc.png``."""
        with self.staged(path) as file:
            figure.savefig(file, dpi=110)

    def log_text(self, text: str, path: str) -> None:
        """Store ``text`` as an artifact."""
        with self.staged(path) as file:
            file.write_text(text, encoding="utf-8")

    def log_json(self, tree: Any, path: str) -> None:
        """Store plain values as a readable JSON artifact."""
        self.log_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", path)

    def log_table(self, columns: Mapping[str, Sequence[object]], path: str) -> None:
        """Store columns of equal length as ``path`` (``tables/NAME.json``), as MLflow shows tables."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.log_json({"columns": list(columns), "data": rows}, path)
        self.tables += [path] if path not in self.tables else []

    def log_files(self, folder: Path, path: str) -> None:
        """Store every file of ``folder``, as it is now, under the artifact folder ``path``."""
        with self._sender.outbox.place_for_file() as lies:
            for file in sorted(folder.rglob("*")):  # shutil.copytree hides what stopped it
                if file.is_file():
                    place = lies / file.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, place)
        self._sender.post("file", {"lies": lies.name, "name": "", "folder": path})

    def log_dataset(self, info: DatasetInfo, split: Split, rows: int) -> None:
        """Log one split of a data set as an input of the run.

        The digest is the first 32 hex digits of the content digest (MLflow takes 36 at most); the
        whole of it stands in the run's tag ``hilum.dataset_sha256``.
        """
        profile = {
            "images": rows,
            "images_in_all_splits": info.images,
            "patients": info.patients,
            "refused": sum(info.refused.values()),
            "contract": info.contract_name,
        }
        columns = [{"name": label.name, "kind": label.kind} for label in info.labels]
        dataset = {
            "name": f"{info.name}-{split}",
            "digest": info.content_sha256[:32],
            "source_type": "hilum",
            "source": json.dumps({"dataset": info.name, "split": split}),
            "schema": json.dumps({"size": info.size, "channels": info.channels, "labels": columns}),
            "profile": json.dumps(profile),
        }
        self._sender.post("input", {"dataset": dataset, "context": split})

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        """Hand over a letter of another kind; ``pipeline.tracking.delivery`` knows its road."""
        self._sender.post(kind, body)

    def place_for_files(self) -> AbstractContextManager[Path]:
        """Open a new folder of the outbox, for files that a letter names ``lies``; gone on failure."""
        return self._sender.outbox.place_for_file()

    def download(self, path: str, folder: Path) -> Path:
        """Copy an artifact (a file or a folder) below ``folder`` and return where it lies."""
        return download(self.uri, self.run_id, path, folder)

    def _next_step(self, name: str) -> int:
        if self._last_step is None:
            client = open_client(self.uri)
            with translated(self.uri):
                self._last_step = _last_steps(client.get_run(self.run_id))
        step = self._last_step.get(name, -1) + 1
        self._last_step[name] = step
        return step

    @contextmanager
    def staged(self, path: str) -> Iterator[Path]:
        """Yield a file to write; it becomes the artifact ``path`` when the block ends."""
        folder, _, name = path.rpartition("/")
        with self._sender.outbox.place_for_file() as lies:
            yield lies / name
        self._sender.post("file", {"lies": lies.name, "name": name, "folder": folder})


@contextmanager
def tracked_run(
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str] | None = None,
    *,
    parent: str = "",
    outbox: Path | None = None,
    say: Say = silent,
) -> Iterator[TrackedRun]:
    """Open a new run; how the block ends is what the run says.

    FINISHED when the block ends, KILLED on SIGTERM and Ctrl-C, FAILED on anything else, with the
    place of the fault in ``errors/traceback.txt`` and a line in the tag ``hilum.last_failure``.
    Runs of this experiment whose process died without a word (SIGKILL, power) are set to FAILED
    first.

    With ``outbox``, a folder, the run goes on while the store is away: what it logs waits in
    ``outbox/RUN_ID/outbox``, ``say`` hears of it, and if the store is away to the end
    ``pipeline.tracking.sending`` brings it there later. Without, that is an error.

    With ``parent``, the id of a run of the same experiment, the new run stands below it: a fold, a
    seed or a trial. A parent that ends while children of its failed says so, in the tags
    ``hilum.children`` (``4 FINISHED, 1 FAILED``) and ``hilum.failed_children`` (their ids); whether
    that makes it fail, too, is for its own block to decide.

    Raises
    ------
    TrackingError
        If the store can't be used at the start, refuses something, or the parent is not an open
        run of this experiment; at the end, if what was logged is not sent yet.
    """
    client = open_client(uri)
    with translated(uri):
        experiment_id = experiment_named(client, uri, experiment)
        close_dead_runs(client, experiment_id)
        if parent:
            check_parent(client, parent, experiment_id, uri)
        above = {PARENT_TAG: parent} if parent else {}
        all_tags = {**source_tags(), **process_tags(), **(tags or {}), **above}
        run_id = client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id
    with _sending(uri, run_id, outbox, say) as sender:
        run = TrackedRun(uri, run_id, experiment_id, sender)
        with _to_its_end(run):
            yield run


@contextmanager
def resumed_run(
    uri: str,
    run_id: str,
    tags: Mapping[str, str] | None = None,
    *,
    outbox: Path | None = None,
    say: Say = silent,
) -> Iterator[TrackedRun]:
    """Open a run that was stopped, to bring it to its end; it is RUNNING again.

    What it logged while its store was away is sent first. Metrics up to the last step that it
    logged, by name, are not logged again. How the block ends is what the run says, as in
    :func:`tracked_run`; the tag ``hilum.resumed`` counts.

    Raises
    ------
    TrackingError
        If the store can't be used, has no such run, or the run has finished.
    """
    client = open_client(uri)
    if outbox is not None and box_of(outbox / run_id).is_dir():
        sent = send(outbox / run_id, uri)
        say(f"{sent.letters} letters that had waited were sent")
    with translated(uri):
        found = client.get_run(run_id)
        refuse_finished(found, uri)
        times = int(found.data.tags.get("hilum.resumed", "0")) + 1
        client.update_run(run_id, status="RUNNING")
        if endings.FAILURE_TAG in found.data.tags:
            client.delete_tag(run_id, endings.FAILURE_TAG)
    logged = _last_steps(found)
    with _sending(uri, run_id, outbox, say) as sender:
        run = TrackedRun(uri, run_id, found.info.experiment_id, sender, logged)
        run.set_tags({**process_tags(), **(tags or {}), "hilum.resumed": str(times)})
        system = [step for metric, step in logged.items() if metric.startswith("system/")]
        with _to_its_end(run, max(system, default=-1) + 1):
            yield run


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
    with _sending(uri, run_id, None, silent) as sender, endings.stoppable():
        run = TrackedRun(uri, run_id, found.info.experiment_id, sender)
        try:
            yield run
            run.flush()
        except BaseException as error:
            with endings.undisturbed(), contextlib.suppress(TrackingError):
                _log_failure(run, error)
                run.flush()
            raise


def _last_steps(found: Any) -> dict[str, int]:
    metrics = found.data._metric_objs  # noqa: SLF001 - the only place that holds steps
    return {metric.key: int(metric.step) for metric in metrics}


@contextmanager
def _sending(uri: str, run_id: str, root: Path | None, say: Say) -> Iterator[Sender]:
    """Open the run's outbox, below ``root`` or for the time being, and the thread that empties it."""
    with contextlib.ExitStack() as closing:
        if root is None:
            box = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")), BOX)
        else:
            box = box_of(root / run_id)
        opened = outbox_at(box, {"uri": redacted(uri), "run_id": run_id})
        outbox = closing.enter_context(opened)
        sender = Sender(outbox, Delivery(uri, run_id, box), say, patient=root is not None)
        try:
            if root is not None:
                sender.post("tags", {"rows": {OUTBOX_TAG: str(box)}})
            yield sender
        finally:
            sender.join()


@contextmanager
def _to_its_end(run: TrackedRun, system_step: int = 0) -> Iterator[None]:
    sender = run._sender  # noqa: SLF001 - same module
    with endings.stoppable():
        ending: BaseException | None = None
        try:
            sender.measure(system_step)
            yield
        except BaseException as error:
            ending = error
            raise
        finally:
            with endings.undisturbed():
                _say_last_words(run, sender, ending)


def _say_last_words(run: TrackedRun, sender: Sender, ending: BaseException | None) -> None:
    sender.rest()
    run.log_undefined()
    if ending is not None:
        _log_failure(run, ending)
    run.post()
    with contextlib.suppress(TrackingError):  # a store that is away can't be asked
        client = open_client(run.uri)
        with translated(run.uri):
            said = tags_of_parent(client, run.experiment_id, run.run_id)
        if said:
            run.set_tags(said)
    sender.post("end", {"status": endings.status_of(ending), "at": now_ms()})
    away = sender.flush()
    if away is None:
        return
    unsent = sender.unsent(run.run_id, away)
    if ending is None:
        raise unsent
    sender.say(f"note: {unsent}")


def _log_failure(run: TrackedRun, error: BaseException) -> None:
    run.set_tags({endings.FAILURE_TAG: endings.failure(error)})
    with contextlib.suppress(OSError):  # the disk may be what failed
        run.log_text(endings.traceback_text(error), "errors/traceback.txt")
