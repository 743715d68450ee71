"""Score files in batch: every file ends as a row, a score or a refusal with its reason.

    hilum score photos/ --model models:/fundus@champion --out scores.parquet
    hilum score eye.dcm --model package/ --out scores.parquet --evidence maps/

MODEL is a package folder, models:/NAME@ALIAS or models:/NAME/VERSION. A folder stands for every
file below it. With --evidence each scored file also leaves its whole answer as SOURCE.json (what
`hilum report` reads) and one picture per label, SOURCE-LABEL.png; SOURCE is the beginning of the
SHA-256 of the file's bytes.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import UsageError
from services.cli.console import Console

if TYPE_CHECKING:
    from pipeline.model.package import Package


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="files and folders")
    parser.add_argument(
        "--model", required=True, help="package folder, models:/NAME@ALIAS or models:/NAME/VERSION"
    )
    parser.add_argument("--out", required=True, type=Path, help="Parquet file to write")
    parser.add_argument(
        "--evidence", type=Path, metavar="FOLDER", help="write answers and evidence pictures there"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="files scored at once (default: the cores it may use)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Score and print the counts; 1 if a file met a fault of ours, else 0."""
    from pipeline.model.batch import FAULT, score_files

    files = expand(options.paths)
    with _package(options.model) as (package, version):
        counts = score_files(
            package,
            files,
            options.out,
            progress=console.progress,
            version=version,
            evidence=options.evidence,
            threads=max(options.threads, 0),
        )
        name, digest = package.card.name, package.sha256
    lines = [f"  {word:<24}{count}" for word, count in counts.items()]
    console.result(
        "\n".join(
            [
                f"{len(files)} files by {name} {version}".rstrip() + ":",
                *lines,
                "",
                f"rows: {options.out}",
            ]
        ),
        {
            "files": len(files),
            "counts": counts,
            "model": name,
            "version": version,
            "package_sha256": digest,
            "out": str(options.out),
        },
    )
    return 1 if counts.get(FAULT) else 0


def expand(paths: list[Path]) -> list[Path]:
    """Return the files named, and every file below the folders named, in a stable order, each once.

    Raises
    ------
    UsageError
        If a path doesn't exist, or there is nothing to score.
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise UsageError(f"no such file or folder: {', '.join(map(str, missing))}")
    found: list[Path] = []
    for path in paths:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in below if file.is_file()]
    if not found:
        raise UsageError("there is no file to score")
    return list(dict.fromkeys(found))


@contextmanager
def _package(model: str) -> "Iterator[tuple[Package, str]]":
    from pipeline.model.package import open_package

    if not model.startswith("models:/"):
        yield open_package(Path(model)), ""
        return
    from pipeline.tracking.registry import fetch_package
    from services.cli.settings import tracking_uri

    with tempfile.TemporaryDirectory(prefix="hilum-score-") as scratch:
        fetched = fetch_package(model, tracking_uri(), Path(scratch))
        yield open_package(fetched.folder), fetched.version
