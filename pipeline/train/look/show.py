"""From a package and an image to the page: the one function behind `hilum look`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import UsageError
from data_schemas.progress import Progress, silent
from pipeline.ingest.store import Dataset
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.train.look.content import contents
from pipeline.train.look.neighbours import nearest
from pipeline.train.look.page import page
from pipeline.train.look.passing import send
from pipeline.train.look.subject import from_file, put_together, typical


@dataclass(frozen=True, slots=True)
class Shown:
    """The page as HTML, and what a command says about it."""

    html: str
    image: str  # how the page names the image: a digest or a row, never a file's name
    verdict: str
    probability: float
    logit: float
    checks: int


def show(
    package: Package,
    plan_file: Path | None,
    image: Path | None,
    dataset: Dataset | None,
    neighbours: int = 0,
    progress: Progress = silent,
) -> Shown:
    """Return the page of one image.

    Parameters
    ----------
    plan_file
        The run's plan, if there is one.
    image
        A file; ``None``: a typical image of the data set's tune split.
    dataset
        Needed without an image, and for neighbours.
    neighbours
        How many of the nearest training images to show. They are other patients' pictures.

    Raises
    ------
    UsageError
        If there is neither an image nor a data set, or no data set for the neighbours.
    ImageError
        If the file doesn't become an image under the package's contract.
    PackageError
        If weights and graph disagree.
    """
    if dataset is None and (image is None or neighbours):
        raise UsageError(
            "no data set is known to take an image from",
            mend="name an image file, or --dataset FOLDER",
        )
    subject = put_together(package, plan_file)
    runtime = Runtime(package)
    if image is not None:
        seen = from_file(image, package)
    else:
        assert dataset is not None  # noqa: S101 - for the type checker
        seen = typical(dataset, package, runtime)
    passing = send(subject, seen.pixels)
    tree: dict[str, Any] = contents(subject, seen, passing, runtime, progress)
    if neighbours:
        assert dataset is not None  # noqa: S101 - for the type checker
        tree["near"] = nearest(dataset, runtime, seen, neighbours, progress)
    primary = next(
        found for found in tree["answer"]["outputs"] if found["label"] == package.card.primary
    )
    explained = next(c for c in primary["columns"] if c["column"] == primary["explained"])
    return Shown(
        page(tree),
        seen.name,
        tree["answer"]["verdict"],
        primary["positive"],
        explained["logit"],
        len(tree["checks"]),
    )
