"""Opens an MLflow store: quiet, without telemetry, never a file store, and safe on its first use.

MLflow is imported inside functions only: the import costs seconds and 170 MB, and it reads its
switches from the environment while it loads.
"""

import errno
import fcntl
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from data_schemas.errors import TrackingError
from pipeline.tracking.page import QUIET_SERVER

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SERVER_SCHEMES = ("http", "https")
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")

_SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # stdout holds our results, as JSON if wanted
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow itself waits 120 s and tries 8 times, ever more slowly; ours is a thread that tries again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
KNOCK_S = 10.0
"""How long a server may take to say that it is there."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Picks MLflow's view for trained models over the one for language-model traces."""
_opened: set[str] = set()


def open_client(uri: str) -> "MlflowClient":
    """Return an MLflow client bound to ``uri`` for tracking and registry, its tables in place.

    A fresh SQLite file is created and migrated under a file lock: of several processes that use it
    for the first time at once, MLflow alone would let only one live.

    Raises
    ------
    TrackingError
        If the address is a folder or has an unknown scheme, or if nothing answers there.
    """
    check_uri(uri)
    import_quietly()
    from mlflow.tracking import MlflowClient

    if uri in _opened:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    with translated(uri), _first_use(uri):
        # the constructor already creates tables
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    _opened.add(uri)
    return client


def check_uri(uri: str) -> None:
    """Refuse what can't be a tracking store, before MLflow is loaded.

    Raises
    ------
    TrackingError
        For a plain folder, ``file:`` or an unknown scheme, and for a server that doesn't answer.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in ("", "file"):
        raise TrackingError(
            f"`{redacted(uri)}` is a folder; MLflow 3 keeps runs in a database or on a server",
            where="tracking URI",
            mend="use sqlite:///path/mlflow.db or the address of an MLflow server",
        )
    if scheme not in (*SERVER_SCHEMES, *DATABASE_SCHEMES):
        raise TrackingError(
            f"`{scheme}:` is not a kind of tracking store that hilum uses",
            where="tracking URI",
            mend="use sqlite:, postgresql:, mysql:, http: or https:",
        )
    if scheme in SERVER_SCHEMES and uri not in _opened:
        knock(uri)


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI, ``None`` for any other store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def artifact_root(uri: str, experiment: str) -> str | None:
    """Return where a new experiment keeps its artifacts; ``None`` leaves it to the server.

    Beside the SQLite file, not in whatever folder the command was started from.
    """
    file = database_file(uri)
    if file is None:
        return None
    slug = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in experiment)
    return (file.parent / "mlruns" / slug).as_uri()


def experiment_named(client: "MlflowClient", uri: str, name: str) -> str:
    """Return an experiment's id; it is made if there is none.

    Raises
    ------
    TrackingError
        If it was deleted.
    """
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


def import_quietly() -> None:
    """Set MLflow's switches (telemetry off, warnings only, no bars of its own) before its first import."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - MLflow has no other switch for these
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # they would tell of every try, with addresses, statements and values; the exceptions are ours
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn MLflow's and the database's exceptions into :class:`TrackingError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        hosts = f"start it with --allowed-hosts {urlsplit(redacted(uri)).netloc}"
        mend = hosts if "Invalid Host header" in str(error) else None
        raise TrackingError(first_line(error), where=redacted(uri), mend=mend) from error
    except (SQLAlchemyError, OSError) as error:
        raise TrackingError(
            first_line(error),
            where=redacted(uri),
            mend="check that it runs, may be written, and has room left",
        ) from error


def is_away(error: BaseException) -> bool:
    """Return whether the store takes nothing now, but may take the same later.

    So are a server that doesn't answer or answers 5xx, 429, 401 or 403 (a token may be renewed), a
    page that is not MLflow's (a proxy's), a locked or full database and a full disk.
    """
    from mlflow.exceptions import MlflowException
    from requests import HTTPError
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        if error.error_code == "ENDPOINT_NOT_FOUND":
            return True
    elif isinstance(error, HTTPError):
        status = 503 if error.response is None else error.response.status_code
    else:
        return isinstance(error, OSError | OperationalError)
    return bool(status >= 500 or status in (401, 403, 408, 429))


def answers(uri: str) -> bool:
    """Return whether a server is there; a database always counts as there."""
    if urlsplit(uri).scheme not in SERVER_SCHEMES:
        return True
    try:
        knock(uri)
    except TrackingError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """Return what is wrong in one line, without addresses, statements and values.

    A database's message would quote the statement and its values, a library's the address with
    its password.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OperationalError):
            return f"the database can't be used: {chain.orig}"
        if isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT):
            return "no room is left on the store's disk"
        chain = chain.__cause__ or chain.__context__
    if not isinstance(error, MlflowException):
        return f"the tracking store can't be used: {type(error).__name__}"
    text = str(error.message).strip()
    if "Invalid Host header" in text:
        return "the MLflow server refuses the name in this address (its host check)"
    answered = re.search(r"failed with error code (\d+)", text)
    if answered is not None:
        return f"the MLflow server answers {answered[1]}"
    if "API request to" in text:
        return "the MLflow server doesn't answer"
    return text.splitlines()[0][:300] if text else type(error).__name__


def redacted(uri: str) -> str:
    """Return ``uri`` without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    file = database_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file closes, also when we are killed
        yield


def knock(uri: str) -> None:
    """Raise :class:`TrackingError` if no server answers at ``uri`` within :data:`KNOCK_S`."""
    # MLflow itself retries for minutes before it says that nobody is there
    parts = urlsplit(redacted(uri))
    try:
        with urllib.request.urlopen(  # noqa: S310 - scheme was checked
            f"{parts.geturl().rstrip('/')}/health", timeout=KNOCK_S
        ):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return  # somebody answers; what they say about the run itself comes later
        raise _nobody(parts, f"{parts.netloc} answers {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _nobody(parts, "no MLflow server answers") from error


def _nobody(parts: SplitResult, what: str) -> TrackingError:
    return TrackingError(
        what,
        where=parts.geturl(),
        mend=f"start one: {QUIET_SERVER} --host {parts.hostname} --port {parts.port or 5000}",
    )
