"""Brings letters to the store: what each kind means to MLflow, and which faults are worth waiting for.

Every road may be taken twice with the same letter: MLflow keeps equal metrics, tags, parameters and
inputs once, and a file replaces itself.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import TrackingError
from pipeline.tracking import records
from pipeline.tracking.endings import FAILURE_TAG
from pipeline.tracking.outbox import FILES, Letter
from pipeline.tracking.store import first_line, is_away, open_client, redacted

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

AT_ONCE = 1000
"""Metrics that one request may hold."""


class AwayError(TrackingError):
    """The store takes nothing now; the same letter may go later."""


class RefusedError(TrackingError):
    """The store answers, and will never take this letter."""


class Delivery:
    """The way to one run. Raises :class:`AwayError` or :class:`RefusedError`."""

    def __init__(self, uri: str, run_id: str, folder: Path) -> None:
        self.uri, self.run_id = uri, run_id
        self._files = folder / FILES
        self._client: MlflowClient | None = None

    def __call__(self, letters: list[Letter]) -> None:
        """Bring letters of one kind (several of metrics only) to the store."""
        first = letters[0]
        if first.kind == "metrics":
            body: dict[str, Any] = {"rows": [row for one in letters for row in one.body["rows"]]}
        else:
            body = first.body
        self.do(lambda client: ROADS[first.kind](client, self.run_id, body, self._files))

    def do(self, act: Callable[["MlflowClient"], object]) -> None:
        """Do something with the client, its faults told apart."""
        try:
            if self._client is None:
                self._client = open_client(self.uri)
            act(self._client)
        except TrackingError as error:
            raise AwayError(error.what, where=error.where, mend=error.mend) from error
        except Exception as error:
            kind = AwayError if is_away(error) else RefusedError
            raise kind(first_line(error), where=redacted(self.uri)) from error


def together(waiting: Sequence[Letter]) -> list[Letter]:
    """Return how many of the first letters go in one request: metrics may share one."""
    chosen, rows = [waiting[0]], len(waiting[0].body.get("rows", ()))
    for letter in islice(waiting, 1, None):
        rows += len(letter.body.get("rows", ()))
        if {letter.kind, waiting[0].kind} != {"metrics"} or rows > AT_ONCE:
            break
        chosen.append(letter)
    return chosen


def _metrics(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    from mlflow.entities import Metric

    rows = [Metric(name, value, at, step) for name, value, at, step in body["rows"]]
    for start in range(0, len(rows), AT_ONCE):
        client.log_batch(run_id, metrics=rows[start : start + AT_ONCE])


def _params(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    from mlflow.entities import Param

    rows = [Param(name, value) for name, value in body["rows"].items()]
    for start in range(0, len(rows), 100):
        client.log_batch(run_id, params=rows[start : start + 100])


def _tags(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in body["rows"].items()])


def _input(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = InputTag("mlflow.data.context", body["context"])
    client.log_inputs(run_id, [DatasetInput(Dataset(**body["dataset"]), [context])])


def _file(client: "MlflowClient", run_id: str, body: dict[str, Any], files: Path) -> None:
    lies = files / body["lies"]
    if not lies.exists():
        return  # it was taken before the process that sent it could say so
    if body["name"]:
        client.log_artifact(run_id, str(lies / body["name"]), body["folder"] or None)
    else:
        client.log_artifacts(run_id, str(lies), body["folder"] or None)


def _end(client: "MlflowClient", run_id: str, body: dict[str, Any], _files: Path) -> None:
    client.set_terminated(run_id, status=body["status"], end_time=body["at"])
    # it may have been taken for dead while the store was away
    if body["status"] == "FINISHED" and FAILURE_TAG in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, FAILURE_TAG)


ROADS: dict[str, Callable[["MlflowClient", str, dict[str, Any], Path], None]] = {
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "input": _input,
    "model": records.add_record,
    "figures": records.add_figures,
    "experiment": records.describe,
    "file": _file,
    "end": _end,
}
