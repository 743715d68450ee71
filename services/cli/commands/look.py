"""Show what a network does with one image: one page, from the pixels to the verdict.

    hilum look 3f2a9c... eye.jpg
    hilum look package/ eye.dcm --out eye.html
    hilum look 3f2a9c... --dataset data/fundus --neighbours 6

RUN is the id of a finished MLflow run, or a package folder. Without IMAGE a typical image of the
data set's tune split is taken; the data set is looked for where the run found it. The page is one
HTML file that needs nothing else: the image as numbers, the first convolution by hand, every
filter, feature maps by depth, receptive fields, the evidence map and its sum.

The page holds the image. It stays on this machine unless --log asks for it in the run, as
look/NAME.html, where NAME is a digest; neighbours, other patients' pictures, are never logged.
"""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import HilumError, UsageError
from services.cli.console import Console

if TYPE_CHECKING:
    from pipeline.ingest.store import Dataset

DATASET_TAG = "hilum.dataset_path"
MOST_NEIGHBOURS = 24


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="id of a finished MLflow run, or package folder")
    parser.add_argument(
        "image",
        metavar="IMAGE",
        nargs="?",
        type=Path,
        help="an image file (default: a typical one of the data set's tune split)",
    )
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="the data set that the run was trained on"
    )
    parser.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="N",
        help="also show the N training images with the nearest embedding (not with --log)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("look.html"), help="page to write (default: look.html)"
    )
    parser.add_argument(
        "--log", action="store_true", help="also log the page, with the image in it, to the run"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Make the page and say where it is."""
    if not 0 <= options.neighbours <= MOST_NEIGHBOURS:
        raise UsageError(f"takes 0 to {MOST_NEIGHBOURS}", where="--neighbours")
    folder = Path(options.run)
    if options.log and (options.neighbours or folder.is_dir()):
        raise UsageError(
            "a package folder has no run to log to"
            if folder.is_dir()
            else "the neighbours are other patients' pictures, which no run gets",
            where="--log",
            mend="leave --log or --neighbours out, or name the run by its id",
        )
    console.say("loading torch ...")
    from data_schemas.files import write_text
    from pipeline.model.package import open_package
    from pipeline.train.look.show import show

    with tempfile.TemporaryDirectory(prefix="hilum-look-") as scratch:
        where, plan, noted = (
            (folder, _plan_beside(folder), "")
            if folder.is_dir()
            else _fetched(options.run, Path(scratch))
        )
        package = open_package(where)
        dataset = _dataset(options, noted)
        shown = show(package, plan, options.image, dataset, options.neighbours, console.progress)
    write_text(options.out, shown.html)
    logged = _logged(options.run, shown.image, shown.html) if options.log else ""
    lines = [
        f"{shown.image}: {shown.verdict}, {package.card.primary} {shown.probability:.3f}, logit {shown.logit:.3f}",
        f"{shown.checks} checks passed",
        f"page: {options.out} ({len(shown.html.encode()) / 1e6:.1f} MB)",
        *([f"logged to the run: {logged}"] if logged else []),
    ]
    tree = {
        "image": shown.image,
        "verdict": shown.verdict,
        "probability": shown.probability,
        "logit": shown.logit,
        "out": str(options.out),
        "logged": logged,
    }
    console.result("\n".join(lines), tree)
    return 0


def _plan_beside(folder: Path) -> Path | None:
    """Return the plan that lies beside a package in a copy of a run's artifacts."""
    plan = folder.resolve().parent / "config" / "plan.yaml"
    return plan if plan.is_file() else None


def _fetched(run_id: str, scratch: Path) -> tuple[Path, Path, str]:
    """Return a run's package and plan, fetched, and where the run found its data set."""
    from pipeline.tracking.finding import download, finished_run
    from services.cli.settings import tracking_uri

    uri = tracking_uri()
    try:
        tags = finished_run(uri, run_id)
    except HilumError as error:
        if "/" in run_id:
            raise UsageError("no such package folder", where=run_id) from error
        raise
    package = download(uri, run_id, "package", scratch)
    plan = download(uri, run_id, "config/plan.yaml", scratch)
    return package, plan, tags.get(DATASET_TAG, "")


def _dataset(options: argparse.Namespace, noted: str) -> "Dataset | None":
    from pipeline.ingest.store import open_dataset

    if options.dataset is not None:
        return open_dataset(options.dataset)
    if options.image is not None and not options.neighbours:
        return None
    if not noted or not Path(noted).is_dir():
        raise UsageError(
            "the run's data set is not where it was, or nothing says where",
            mend=f"hilum look {options.run} --dataset FOLDER, or name an image file",
        )
    return open_dataset(Path(noted))


def _logged(run_id: str, image: str, html: str) -> str:
    from pipeline.tracking.runs import continued_run
    from services.cli.settings import tracking_uri

    path = f"look/{image.replace(' ', '-')}.html"
    with continued_run(tracking_uri(), run_id) as tracked:
        tracked.log_text(html, path)
    return path
