"""Opens an MLflow store: quiet, without telemetry, never a file store, and safe on its first use.

MLflow is imported inside functions only: the import costs seconds and 170 MB, and it reads its
switches from the environment while it loads.
"""

import fcntl
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_schemas.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SERVER_SCHEMES = ("http", "https")
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")

_SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
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
        _knock(uri)


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


def import_quietly() -> None:
    """Set MLflow's switches (telemetry off, warnings only, no bars of its own) before its first import."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)  # noqa: TID251 - MLflow has no other switch for these
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn MLflow's and the database's exceptions into :class:`TrackingError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        raise TrackingError(_first_line(error), where=redacted(uri)) from error
    except (SQLAlchemyError, OSError) as error:
        raise TrackingError(
            f"the tracking store can't be used: {type(error).__name__}",
            where=redacted(uri),
            mend="check that it runs, may be written, and has room left",
        ) from error


def redacted(uri: str) -> str:
    """Return ``uri`` without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _first_line(error: Any) -> str:
    text = str(getattr(error, "message", error)).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


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


def _knock(uri: str) -> None:
    # MLflow itself retries for minutes before it says that nobody is there
    parts = urlsplit(redacted(uri))
    try:
        with urllib.request.urlopen(f"{parts.geturl().rstrip('/')}/health", timeout=20):  # noqa: S310 - scheme was checked
            return
    except urllib.error.HTTPError:
        return  # somebody answers; what they say about the run itself comes later
    except (OSError, ValueError) as error:
        raise TrackingError(
            "no MLflow server answers",
            where=parts.geturl(),
            mend=f"start one: mlflow server --host {parts.hostname} --port {parts.port or 5000}",
        ) from error
