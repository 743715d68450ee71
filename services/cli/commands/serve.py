"""Score images over HTTP: one request with a file's bytes, one answer.

MODEL is a package folder, or a model of the registry: models:/NAME@ALIAS or models:/NAME/VERSION.

    hilum serve models:/fundus@champion --port 8080
    curl --data-binary @photo.jpg 'http://127.0.0.1:8080/v1/scores?evidence=true'

The first line on stdout is `serving NAME on URL` (with --json an object with name, version and
url). The page at URL shows an image with its answer; URL/docs describes the interface. The log
goes to stderr as JSON lines without anything identifying. Every setting can also come from the
environment (HILUM_MODEL, HILUM_HOST, HILUM_PORT, HILUM_THREADS, HILUM_QUEUE, HILUM_MAX_BODY_MB,
HILUM_MAX_HELD_MB, HILUM_BODY_SECONDS, HILUM_DRAIN_SECONDS, HILUM_RUNTIME, HILUM_PRECISION, and those of docs/receipts.md and
docs/security.md); a flag wins. On an address that other machines can reach it asks for API keys
(--keys-file) or tokens, or starts only with --insecure-open.
"""

import argparse
import gc
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import PackageError, UsageError
from services.cli import models
from services.cli.console import Console
from services.cli.settings import tracking_uri

if TYPE_CHECKING:
    from services.inference.settings import ServiceSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="package folder or models:/NAME@ALIAS"
    )
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", help="port; 0 takes any free one (default 8080)")
    parser.add_argument("--threads", help="images scored at once (default: the cores it may use)")
    models.configure_wish(parser)
    parser.add_argument(
        "--batch", help="images in one run of the model (default: 1 on a CPU, 8 on a GPU)"
    )
    parser.add_argument("--queue", help="images that may wait for a thread (default 32)")
    parser.add_argument("--max-body-mb", help="largest request body, MiB (default 256)")
    parser.add_argument("--receipts", metavar="FOLDER", help="where the receipt log is kept")
    parser.add_argument("--keys-file", metavar="FILE", help="API keys, made by `hilum keys`")
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate with its chain, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key, PEM")
    parser.add_argument(
        "--insecure-open",
        action="store_const",
        const=True,
        help="let other machines in without asking who they are: a proxy does",
    )
    parser.add_argument("--workers", help="serving processes (default: one for each 8 cores)")
    parser.add_argument(
        "--follow-seconds", help="how often the alias is looked up; 0: only at start (default 30)"
    )
    parser.add_argument("--shadow", metavar="FOLDER", help="package of a challenger, unseen")
    parser.add_argument("--shadow-report", metavar="FOLDER", help="where its answers are kept")


def run(options: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C; 0 after a clean end."""
    # what is imported is no garbage: the supervisor lets the collector begin
    gc.disable()
    try:
        return _serve(options, console)
    finally:
        gc.enable()


def _serve(options: argparse.Namespace, console: Console) -> int:
    from services.inference.settings import from_door

    flags = {
        name: getattr(options, name)
        for name in (
            *("model", "host", "port", "threads", "runtime", "precision", "batch"),
            *(
                "queue",
                "max_body_mb",
                "receipts",
                "keys_file",
                "tls_cert",
                "tls_key",
                "insecure_open",
            ),
            *("workers", "follow_seconds", "shadow", "shadow_report"),
        )
    }
    settings = from_door(flags)
    if not settings.model:
        raise UsageError(
            "no model is named",
            where="MODEL",
            mend="hilum serve FOLDER, or hilum serve models:/NAME@ALIAS (or set HILUM_MODEL)",
        )
    from services.inference.traces import check_traces

    check_traces(settings)
    with tempfile.TemporaryDirectory(prefix="hilum-serve-") as scratch:
        trusted = Path(settings.trusted_keys) if settings.trusted_keys else None
        folder, version = _folder(settings.model, Path(scratch))

        # files are hashed outside of Python's lock, while what comes next is imported
        from pipeline.model.sums import WEIGHTS, check_files

        with ThreadPoolExecutor(1) as ahead:
            checking = ahead.submit(check_files, folder, unread=(WEIGHTS,))
            from pipeline.model.opening import check_wish
            from pipeline.model.package import open_package
            from services.inference.access import check_open
            from services.inference.checking import check_start, wish_of
            from services.inference.journal import Journal
            from services.inference.port import address_of, is_open_to_others, listen
            from services.inference.tls import scheme

            package = open_package(folder, trusted_keys=trusted, files=lambda _: checking.result())

        check_wish(package, wish_of(settings), settings.batch or None)
        check_start(settings)
        listening = listen(settings.host, settings.port)
        name, url = package.card.name, scheme(address_of(listening), settings)
        check_open(settings, open_to_others=is_open_to_others(listening), journal=Journal())
        console.result(f"serving {name} on {url}", {"name": name, "version": version, "url": url})
        settings = _with_figures(settings, Path(scratch))

        from services.inference.processes import Serving, run_processes

        follow = tracking_uri() if settings.model.startswith("models:/") else ""
        return run_processes(Serving(package, version, settings, listening, Path(scratch), follow))


def _with_figures(settings: "ServiceSettings", scratch: Path) -> "ServiceSettings":
    # the library of the figures looks here when it is imported, and nowhere else
    folder = scratch / "figures"
    folder.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return settings.model_copy(update={"figures_folder": str(folder)})


def _folder(model: str, scratch: Path) -> tuple[Path, str]:
    """Return where the package lies, and its version in the registry if it came from there."""
    if model.startswith("models:/"):
        from pipeline.tracking.registry import fetch_package

        fetched = fetch_package(model, tracking_uri(), scratch / "packages")
        return fetched.folder, fetched.version
    folder = Path(model)
    if not folder.is_dir():
        raise PackageError(
            "no such package folder", where=folder, mend="name a folder, or models:/NAME@ALIAS"
        )
    return folder, ""
