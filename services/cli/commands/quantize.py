"""Add an 8-bit graph to a model package, and measure where this machine's precisions stand.

    hilum quantize package/ --dataset datasets/fundus --out package-int8
    hilum quantize 3f2a... --dataset datasets/fundus --out package-int8
    hilum serve package-int8 --precision int8

PACKAGE is a package folder, models:/NAME@ALIAS or a run. Ranges are measured on training images. Then
every runtime and precision of this machine (bf16, too) answers the images of --split beside ONNX Runtime
in fp32; what came out goes into card.json, and decides what the new package may be served in. It has
another digest than the old one, the same network, verification set and operating points.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from data_schemas.terms import Split
from services.cli.commands.verify import images_of, table
from services.cli.console import Console
from services.cli.models import opened_package

if TYPE_CHECKING:
    from pipeline.model.package import Package

CALIBRATED_ON = 64
"""Training images that ranges are measured on."""

MEASURED_ON = 512
"""Images at most that precisions are compared on."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="PACKAGE", help="folder, models:/NAME@ALIAS or run")
    parser.add_argument(
        "--dataset", type=Path, required=True, metavar="FOLDER", help="it was trained on"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new package")
    parser.add_argument(
        "--split",
        choices=[split for split in get_args(Split) if split not in ("train", "test", "external")],
        default="calibration",
        help="whose images are compared (default calibration)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Write the package and print the table of its precisions."""
    from pipeline.model.quantize import with_int8
    from pipeline.model.verify import verify

    with _package(options.model) as package:
        calibration = images_of(package, options.dataset, "train", CALIBRATED_ON)
        measured = images_of(package, options.dataset, options.split, MEASURED_ON)
        console.say(f"measuring ranges on {len(calibration)} training images ...")
        new = with_int8(package, calibration, measured, options.split, options.out)
    rows = verify(new)
    head = f"package {new.sha256}, verification set"
    allowed = [f"{row.kind}" for row in rows if row.allowed]
    checks = "\n".join(
        f"  {row.precision}: {row.images} images of the {row.split} split, largest probability "
        f"difference {row.max_probability_difference:.2g}, {row.changed_verdicts} verdicts changed"
        for row in new.card.checks
    )
    console.result(
        f"{table(head, rows)}\n\ncard.json:\n{checks}\n\nnext: hilum serve {options.out} --precision fast",
        {
            "package_sha256": new.sha256,
            "out": str(options.out),
            "allowed": allowed,
            "checks": [row.model_dump(mode="json") for row in new.card.checks],
        },
    )
    return 0


@contextmanager
def _package(model: str) -> "Iterator[Package]":
    if not re.fullmatch(r"[0-9a-f]{32}", model) or Path(model).exists():
        with opened_package(model) as (package, _):
            yield package
        return
    from pipeline.evaluate.final import final_package
    from pipeline.tracking.finding import finished_run
    from services.cli.settings import tracking_uri

    finished_run(tracking_uri(), model)
    with tempfile.TemporaryDirectory(prefix="hilum-quantize-") as scratch:
        yield final_package(model, tracking_uri(), Path(scratch), without_evaluation=True)
