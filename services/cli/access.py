"""Arguments that ingestion and batch scoring share: getting into a source, and how the work is done."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.ingest.sources.listing import Access


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    group = parser.add_argument_group("getting into object storage and DICOMweb")
    group.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for fsspec, as endpoint_url=https://...; credentials come from the environment",
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="bearer token of DICOMweb (or HILUM_DICOMWEB_TOKEN; or HILUM_DICOMWEB_USER and _PASSWORD)",
    )
    group.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="certificates of an archive with its own authority",
    )
    group.add_argument(
        "--source-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="longest silence of a server (default: 60)",
    )


def configure_engine(parser: argparse.ArgumentParser, verb: str) -> None:
    """Declare the arguments of engines; ``verb`` says what their processes do."""
    engine = parser.add_argument_group("how the work is done (the result is the same)")
    engine.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="processes here, or Ray"
    )
    engine.add_argument(
        "--workers",
        type=whole,
        default=0,
        metavar="N",
        help=f"processes that {verb} (default: one for each core)",
    )
    engine.add_argument(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="seconds for one image; then its file is refused (default: 120)",
    )
    engine.add_argument(
        "--memory",
        type=whole,
        default=2048,
        metavar="MIB",
        help="memory for one image; 0: no limit (default: 2048)",
    )
    engine.add_argument(
        "--ray-address", default="", help="a running Ray cluster (default: this machine)"
    )


def whole(text: str) -> int:
    """Read a whole number that isn't negative."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return number


def access_of(options: argparse.Namespace) -> "Access":
    """Return what the arguments and the environment say.

    Raises
    ------
    UsageError
        If an option has no ``=``, or a file can't be read.
    """
    from data_schemas.errors import UsageError
    from pipeline.ingest.sources.listing import Access

    storage: dict[str, Any] = {}
    for word in options.storage_option:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise UsageError(
                "is no KEY=VALUE", where="--storage-option", mend="as in endpoint_url=https://..."
            )
        storage[name] = _value(value)
    if options.ca_file is not None and not options.ca_file.is_file():
        raise UsageError("no such file", where=options.ca_file)
    return Access(
        storage=tuple(storage.items()),
        token=_token(options.token_file),
        user=os.environ.get("HILUM_DICOMWEB_USER", ""),
        password=os.environ.get("HILUM_DICOMWEB_PASSWORD", ""),
        ca_file=str(options.ca_file or ""),
        timeout_s=options.source_timeout,
    )


def _value(text: str) -> Any:
    # switches and nested options; a key made of digits stays text
    if text in ("true", "false") or text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _token(file: Path | None) -> str:
    from data_schemas.errors import UsageError

    if file is None:
        return os.environ.get("HILUM_DICOMWEB_TOKEN", "").strip()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the token file can't be read", where=file) from error
