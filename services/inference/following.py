"""Follows an alias of the registry: a process of its own looks, fetches and tries; workers only take what passed.

The word passes through one small file that is replaced as a whole. Each worker reads it when its time stamp
changes, loads the package beside the old one, checks it again, warms it and then swaps one reference.
Requests that began with the old one end with it, and every answer names the version that gave it; for a
moment two workers may answer with two versions, never one answer with both.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from data_schemas.errors import HilumError
from data_schemas.files import write_text
from pipeline.model.opening import PLAIN, Wish, open_runtime
from services.inference.journal import Journal

NEWS = "champion.json"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class News:
    """What the follower knows."""

    folder: str
    version: str
    package_sha256: str
    registry_up: bool = True
    looked_at: float = 0.0
    """When the registry last answered, seconds since 1970."""
    refused_version: str = ""
    """The version that the alias names and that was refused; empty: none."""
    refused_reason: str = ""
    refusals: int = 0


def read_news(place: Path) -> News | None:
    """Return what was last told, ``None`` before the first word."""
    try:
        return News(**json.loads((place / NEWS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_news(place: Path, news: News) -> None:
    """Tell all workers."""
    write_text(place / NEWS, json.dumps(asdict(news)))


@dataclass(slots=True)
class Follower:
    """The process that follows.

    Parameters
    ----------
    model_uri, tracking_uri
        ``models:/NAME@ALIAS`` and the MLflow server.
    place
        Folder for the news and, below ``packages``, what was fetched.
    seconds
        Between two looks.
    trusted_keys
        As :func:`open_package` takes them; ``None``: signatures aren't asked for.
    wish
        The runtime and precision that the workers will open it in.
    """

    model_uri: str
    tracking_uri: str
    place: Path
    seconds: float
    journal: Journal
    trusted_keys: Path | None = None
    wish: Wish = PLAIN
    _refused: str = ""
    _again_at: float = 0.0

    def live(self, lifeline: int, ready: Callable[[], None]) -> None:
        """Look again and again until the parent ends."""
        ready()
        news = read_news(self.place)
        assert news is not None  # noqa: S101 - the command writes the first word
        while not select.select([lifeline], [], [], self.seconds)[0]:
            found = self.look(news)
            if found != news:
                write_news(self.place, found)
                news = found

    def look(self, news: News) -> News:
        """Look once; return the news after it."""
        from pipeline.tracking.registry import version_behind

        told = asdict(news)
        try:
            version, digest = version_behind(self.model_uri, self.tracking_uri)
        except HilumError as error:
            if news.registry_up:
                self.journal.write("registry_away", level="warning", reason=error.what)
            return News(**{**told, "registry_up": False})
        if not news.registry_up:
            self.journal.write("registry_back")
        told |= {"registry_up": True, "looked_at": round(time.time())}
        if version == news.version:
            return News(**{**told, "refused_version": "", "refused_reason": ""})
        if f"{version} {digest}" == self._refused and time.monotonic() < self._again_at:
            return News(**told)
        try:
            return self._fetched(news)
        except HilumError as error:
            # a wrong file stays wrong, a broken connection doesn't: tried again, but seldom
            self._again_at = time.monotonic() + 10 * self.seconds
            if self._refused != f"{version} {digest}":
                self._refused = f"{version} {digest}"
                told["refusals"] = news.refusals + 1
                self.journal.write(
                    "model_refused", level="error", version=version, reason=error.what
                )
            return News(**{**told, "refused_version": version, "refused_reason": error.what})

    def _fetched(self, news: News) -> News:
        from pipeline.tracking.registry import fetch_package

        fetched = fetch_package(self.model_uri, self.tracking_uri, self.place / "packages")
        sha256 = tried_apart(fetched.folder, self.trusted_keys, self.wish)
        self._refused = ""
        self._tidy({news.folder, str(fetched.folder)})
        self.journal.write("model_found", version=fetched.version, package=sha256)
        looked_at, refusals = round(time.time()), news.refusals
        return News(str(fetched.folder), fetched.version, sha256, True, looked_at, "", "", refusals)

    def _tidy(self, kept: set[str]) -> None:
        for folder in (self.place / "packages").iterdir():
            if str(folder) not in kept and not folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)


def tried_apart(folder: Path, trusted_keys: Path | None = None, wish: Wish = PLAIN) -> str:
    """Load a package in a child process and run its verification set; return the package's digest.

    The child takes the memory of the model with it when it ends, and a graph that crashes the runtime
    ends only the child.

    Raises
    ------
    HilumError
        If the package is refused, with the reason.
    """
    reading, writing = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        _end_with(parent)
        answer: dict[str, str] = {"reason": "the trial was cut short"}
        try:
            answer = {"sha256": _tried(folder, trusted_keys, wish)}
        except Exception as error:  # noqa: BLE001 - the reason is told, whatever it is
            answer = {"reason": str(error)[:2000]}
        finally:
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        told = stream.read()
    status = os.waitpid(pid, 0)[1]
    if not told:
        raise HilumError(f"loading it ended the process with {os.waitstatus_to_exitcode(status)}")
    answer = json.loads(told)
    if "sha256" not in answer:
        raise HilumError(answer["reason"])
    return str(answer["sha256"])


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _tried(folder: Path, trusted_keys: Path | None, wish: Wish) -> str:
    from pipeline.model.package import open_package

    package = open_package(folder, trusted_keys=trusted_keys)
    open_runtime(package, wish)
    return package.sha256
