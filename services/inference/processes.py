"""The processes of one service: workers that share the port, and the one that follows an alias."""

import gc
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.model.package import Package
from services.inference.checking import decode_limits, wish_of, worker_count
from services.inference.engine import Around, Engine
from services.inference.figures import Figures, forget_process
from services.inference.following import Follower, News, write_news
from services.inference.journal import Journal
from services.inference.settings import ServiceSettings
from services.inference.supervisor import Life, Supervisor


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, where, and from which folder.

    ``scratch`` is the service's own folder for fetched packages, news and figures; ``registry`` the
    address of the registry that the model came from, empty for a package folder.
    """

    package: Package
    version: str
    settings: ServiceSettings
    listening: socket.socket
    scratch: Path
    registry: str = ""


def run_processes(serving: Serving) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    settings, journal = serving.settings, Journal()
    os.set_blocking(serving.listening.fileno(), False)
    follower = _follower(serving, journal)
    count = worker_count(settings)
    work = partial(_work, serving, following=follower is not None)
    lives: dict[str, Life] = {f"worker {place}": work for place in range(count)}
    if follower is not None:
        lives["follower"] = partial(_follow, serving.listening, follower)
    if count > 1:
        _import_once()
    return Supervisor(
        lives,
        settings.drain_seconds,
        journal,
        lambda pid: forget_process(pid, settings.figures_folder),
        serving.listening.close,
    ).run()


def _work(serving: Serving, lifeline: int, ready: Callable[[], None], *, following: bool) -> None:
    """Serve. The whole life of a worker."""
    from services.inference.nursery import Nursery

    settings = serving.settings
    gc.disable()  # nothing of what is imported is garbage
    # first of all: as long as there is one thread, forking is safe
    breeding = Nursery(decode_limits(settings)) if settings.isolate else None
    # want of memory or files may pass: it ends, and the supervisor starts another after a pause
    end = partial(os.kill, os.getpid(), signal.SIGTERM)
    around = Around(serving.scratch if following else None, breeding, ready, end)
    figures = Figures(settings.figures_folder)
    engine = Engine(serving.package, settings, serving.version, figures, Journal(), around)
    engine.start()
    # while the model is loaded and checked, mostly outside of Python's lock, HTTP is imported
    from pipeline.model.scoring import rehearse
    from services.inference.app import create_app
    from services.inference.server import serve

    app = create_app(serving.package, settings, version=serving.version, engine=engine)
    rehearse(serving.package)
    gc.freeze()
    gc.enable()
    serve(app, serving.listening, settings, lifeline)


def _follow(
    listening: socket.socket, follower: Follower, lifeline: int, ready: Callable[[], None]
) -> None:
    # the port is open as long as anybody holds it, and this one takes no connection from it
    listening.close()
    follower.live(lifeline, ready)


def _follower(serving: Serving, journal: Journal) -> Follower | None:
    settings = serving.settings
    if "@" not in settings.model or not serving.registry or not settings.follow_seconds:
        return None
    if not serving.registry.startswith(("http://", "https://")):
        journal.write("not_followed", level="warning", reason="the registry is no MLflow server")
        return None
    package = serving.package
    write_news(serving.scratch, News(str(package.folder), serving.version, package.sha256))
    trusted = Path(settings.trusted_keys) if settings.trusted_keys else None
    return Follower(
        settings.model,
        serving.registry,
        serving.scratch,
        settings.follow_seconds,
        journal,
        trusted,
        wish_of(settings),
    )


def _import_once() -> None:
    """Import what several workers need, so that they share it.

    A single one imports it itself, while its model loads. Nothing here starts a thread (a test counts).
    """
    import uvicorn.protocols.http.httptools_impl  # noqa: F401

    import services.inference.app
    import services.inference.decoders
    import services.inference.nursery
    import services.inference.server  # noqa: F401
