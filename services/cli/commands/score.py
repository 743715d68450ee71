"""Score files in batch: every file ends as a row, a score or a refusal with its reason.

    hilum score photos/ --model models:/fundus@champion --out scores.parquet
    hilum score eye.dcm archive.zip --model package/ --out scores.parquet --evidence maps/
    hilum score s3://bucket/incoming --model package/ --out scores.parquet
    hilum score 'dicomweb+https://host/path?Modality=OP' --model package/ --out scores.parquet

SOURCE is an image file, a folder of any depth (archives in it count as their members), a .zip or .tar
archive, a DICOMDIR, a list file (.txt or .csv, one path a line), a .npz, object storage or DICOMweb.
MODEL is a package folder, models:/NAME@ALIAS or models:/NAME/VERSION.

Killed at any moment, the same command goes on where it stopped: OUT appears whole or not at all, its rows
in the order of the sources. Every image is scored in a process of its own kind: what kills or stops a
decoder is one refusal. With --evidence each scored file also leaves its whole answer as DIGITS.json (what
`hilum report` reads) and one picture per label, DIGITS-LABEL.png; DIGITS is the beginning of the SHA-256
of the file's bytes.
"""

import argparse
import os
from pathlib import Path

from services.cli import access, models
from services.cli.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="files, folders and addresses, see above"
    )
    parser.add_argument(
        "--model", required=True, help="package folder, models:/NAME@ALIAS or models:/NAME/VERSION"
    )
    parser.add_argument("--out", required=True, type=Path, help="Parquet file to write")
    parser.add_argument(
        "--evidence",
        type=Path,
        metavar="FOLDER",
        help="write answers and evidence pictures there; with Ray a folder that all machines share",
    )
    models.configure_wish(parser)
    access.configure_engine(parser, "score")
    access.configure(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Score and print the counts; 1 if a file met a fault of ours, else 0."""
    from pipeline.batch.rows import FAULT
    from pipeline.batch.score import Options, score_sources
    from pipeline.imaging.workers import WorkerLimits

    if options.engine == "ray":  # nothing is sent anywhere, and its chatter stays in its own logs
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with models.opened_package(options.model) as (package, version):
        counts = score_sources(
            package,
            options.sources,
            options.out,
            Options(
                version=version,
                wish=models.wish_of(options),
                evidence=options.evidence,
                engine=options.engine,
                workers=options.workers,
                limits=WorkerLimits(options.timeout, options.memory * 2**20),
                ray_address=options.ray_address,
                access=access.access_of(options),
                say=console.say,
            ),
            console.progress,
        )
        name, digest = package.card.name, package.sha256
    files = sum(counts.values())
    lines = [f"  {word:<24}{count}" for word, count in counts.items()]
    console.result(
        "\n".join(
            [
                f"{files} files by {name} {version}".rstrip() + ":",
                *lines,
                "",
                f"rows: {options.out}",
            ]
        ),
        {
            "files": files,
            "counts": counts,
            "model": name,
            "version": version,
            "package_sha256": digest,
            "out": str(options.out),
        },
    )
    return 1 if counts.get(FAULT) else 0
