"""Check a model package here, in every runtime and precision that this machine has.

    hilum verify package/
    hilum verify models:/fundus@champion --json
    hilum verify package/ --dataset datasets/fundus --split calibration

Every file is checked against its digest. Then the package's verification set (or, with --dataset, the
images of a split) is answered in each runtime and precision, and compared: with what the network itself
answered at export, or, on a data set, with ONNX Runtime in fp32. `allowed` says whether a service or a
batch on this machine may score so: in fp32 if nothing differs, in a reduced precision if no verdict
changes, no probability differs by more than 0.01, and card.json says the same of real images.

The exit code is 1 if fp32 fails.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from data_schemas.errors import UsageError
from data_schemas.terms import Split
from services.cli.console import Console
from services.cli.models import opened_package

if TYPE_CHECKING:
    from pipeline.model.package import Package
    from pipeline.model.verify import Verified

MOST_IMAGES = 1024
SHORTEST_DIGEST = 12
"""Of the package that is wanted: fewer digits would let others pass, none any."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="PACKAGE", help="package folder or models:/NAME@ALIAS")
    parser.add_argument(
        "--sha256", metavar="DIGEST", help="refuse any package but this one (12 digits at least)"
    )
    parser.add_argument("--dataset", type=Path, metavar="FOLDER", help="images of this data set")
    parser.add_argument(
        "--split", choices=get_args(Split), default="calibration", help="(default calibration)"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Print the table; 1 if fp32 fails."""
    from pipeline.model.verify import verify

    with opened_package(options.model) as (package, _):
        digest = package.sha256
        wanted = options.sha256
        if wanted is not None and len(wanted) < SHORTEST_DIGEST:
            raise UsageError(f"at least {SHORTEST_DIGEST} digits are needed", where="--sha256")
        if wanted is not None and not digest.startswith(wanted.lower()):
            raise UsageError(f"the package is {digest}, expected {wanted}")
        images = None
        if options.dataset is not None:
            images = images_of(package, options.dataset, options.split, MOST_IMAGES)
        rows = verify(package, images)
    where = "verification set" if images is None else f"{options.split} split"
    console.result(
        table(f"package {digest}, {where}", rows),
        {"package_sha256": digest, "images_of": where, "rows": [_tree(row) for row in rows]},
    )
    return 0 if all(row.allowed for row in rows if row.kind.precision == "fp32") else 1


def images_of(package: "Package", folder: Path, split: Split, most: int) -> Any:
    """Return prepared images of a split, uint8 [n, S, S, C]: all, or ``most`` spread over it.

    Raises
    ------
    DatasetError
        If it isn't the data set that the model was trained on, or the split is empty.
    """
    import numpy as np

    from data_schemas.errors import DatasetError
    from pipeline.evaluate.answers import check_fit
    from pipeline.ingest.store import open_dataset

    dataset = open_dataset(folder)
    check_fit(package, dataset)
    rows = np.asarray(dataset.indices(split), dtype=np.int64)
    if not rows.size:
        raise DatasetError(f"the split `{split}` has no images", where=folder)
    chosen = np.linspace(0, rows.size - 1, min(most, rows.size)).astype(int)
    return np.ascontiguousarray(dataset.pixels(rows[chosen]))


def table(head: str, rows: "tuple[Verified, ...]") -> str:
    """Return the rows as aligned lines, and below them why what isn't allowed isn't."""
    cells = [("runtime", "precision", "images", "logit", "probability", "changed", "allowed")]
    for row in rows:
        name, found = row.identity or str(row.kind), row.found
        told = (
            ("-", "-", "-", "-")
            if found is None
            else (
                str(found.images),
                f"{found.logit:.2g}",
                f"{found.probability:.2g}",
                str(found.changed),
            )
        )
        runtime = name.replace(f" {row.kind.precision}", "")
        cells.append((runtime, row.kind.precision, *told, "yes" if row.allowed else "no"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    notes = [f"{row.kind}: {row.reason}" for row in rows if row.reason]
    return "\n".join([head, "", *lines, *([""] if notes else []), *notes])


def _tree(row: "Verified") -> dict[str, Any]:
    return {
        "runtime": row.kind.runtime,
        "precision": row.kind.precision,
        "identity": row.identity,
        **(asdict(row.found) if row.found else {}),
        "allowed": row.allowed,
        "reason": row.reason,
    }
