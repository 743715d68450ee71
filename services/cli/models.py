"""Opens the model that a command names: a package folder, or a version of the registry."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from data_schemas.terms import PrecisionWish, RuntimeWish

if TYPE_CHECKING:
    from pipeline.model.opening import Wish
    from pipeline.model.package import Package


@contextmanager
def opened_package(model: str) -> "Iterator[tuple[Package, str]]":
    """Give the package and its version in the registry (empty for a folder), as long as the block lasts.

    Raises
    ------
    PackageError
        If it is no package, or an altered one.
    TrackingError
        If the registry doesn't have it.
    """
    from pipeline.model.package import open_package

    if not model.startswith("models:/"):
        yield open_package(Path(model)), ""
        return
    from pipeline.tracking.registry import fetch_package
    from services.cli.settings import tracking_uri

    with tempfile.TemporaryDirectory(prefix="hilum-package-") as scratch:
        fetched = fetch_package(model, tracking_uri(), Path(scratch))
        yield open_package(fetched.folder), fetched.version


def configure_wish(parser: argparse.ArgumentParser) -> None:
    """Declare --runtime and --precision; not given, they are ``None``."""
    parser.add_argument(
        "--runtime", choices=get_args(RuntimeWish), help="what runs the model (default auto)"
    )
    parser.add_argument(
        "--precision",
        choices=get_args(PrecisionWish),
        help="auto is fp32; bf16 and int8 are refused unless the package's evidence allows them; "
        "fast is the fastest that it allows (default auto)",
    )


def wish_of(options: argparse.Namespace) -> "Wish":
    """Return what the flags ask for."""
    from pipeline.model.opening import Wish

    return Wish(options.runtime or "auto", options.precision or "auto")
