"""Examines a data set folder: every check in order, one report."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.dataset import DatasetInfo
from data_schemas.leaks import LeakFinding, LeakReport
from data_schemas.progress import Progress
from pipeline.ingest.leaks.copies import across_splits, with_other_labels
from pipeline.ingest.leaks.disc import LEAST_SIDE, disc_side
from pipeline.ingest.leaks.identity import (
    contradictions,
    patients_in_two_splits,
    persons_under_two_numbers,
    pixels_in_two_splits,
)
from pipeline.ingest.leaks.images import Images, images_of
from pipeline.ingest.leaks.neighbours import FEWEST, NEAR, Pair, near_copies
from pipeline.ingest.leaks.shortcut import shortcuts
from pipeline.ingest.leaks.sides import contradicting_sides
from pipeline.ingest.leaks.small import binned
from pipeline.ingest.store import Dataset
from pipeline.ingest.write import INFO, LEAKS

Floats = NDArray[np.float64]

_BLOCK = 64
_MEASURED = ("mean intensity", "spread of the intensity", "intensity of the border")
_BORDER = 16
"""Cells along a side of the small picture of which the outermost ring counts as the border."""


def examine_quickly(dataset: Dataset) -> tuple[LeakFinding, ...]:
    """Return what the manifest alone shows: patients and pixels in two splits."""
    images = images_of(dataset)
    return (*patients_in_two_splits(images), *pixels_in_two_splits(images))


def examine(dataset: Dataset, progress: Progress) -> LeakReport:
    """Examine a data set: identity, copies, contradictions, shortcuts, sides.

    Pixels are read in blocks from the memory maps; about a kilobyte an image stays in memory.
    The report is the same for the same data set.
    """
    images = images_of(dataset)
    refusals = dataset.refusals()
    done: list[str] = []
    skipped: list[str] = []
    pairs = _near(dataset, progress, done, skipped)
    measured, disc = _looked_at(dataset, images, progress)
    found = [
        *patients_in_two_splits(images),
        *persons_under_two_numbers(images, refusals),
        *pixels_in_two_splits(images),
        *across_splits(images, pairs),
        *contradictions(images, refusals),
        *with_other_labels(images, pairs),
        *_shortcuts(dataset, images, measured, done, skipped),
        *_sides(images, disc, done, skipped),
    ]
    if not images.has_patients:
        skipped.append(
            "same patient, other eye: every image counts as a patient of its own, patients seem not "
            "to be given (column `patient` of the label table)"
        )
    else:
        count = len(np.unique(images.patient))
        done.insert(0, f"same patient, other eye: {count} patients")
    done.insert(0, f"same pixels: {len(images)} images, {len(refusals)} refusals")
    found.sort(key=lambda finding: finding.severity != "blocks")
    return LeakReport(
        content_sha256=dataset.info.content_sha256,
        images=len(images),
        findings=tuple(found),
        examined=tuple(done),
        not_examined=tuple(skipped),
    )


@dataclass(frozen=True, slots=True)
class Examined:
    """A report, and the data set's document with its counts."""

    report: LeakReport
    info: DatasetInfo


def examine_and_keep(dataset: Dataset, progress: Progress) -> Examined:
    """Examine a data set, write ``leaks.json`` into its folder and the counts into ``dataset.json``.

    The digest of the content stays as it is.
    """
    report = examine(dataset, progress)
    report.write_json(dataset.folder / LEAKS)
    info = dataset.info.model_copy(update={"leaks": report.counts()})
    info.write_json(dataset.folder / INFO)
    return Examined(report, info)


def kept_report(dataset: Dataset) -> LeakReport | None:
    """Return the report in the data set's folder; ``None`` without one, or if it is of other content."""
    path = dataset.folder / LEAKS
    if not path.is_file():
        return None
    report = LeakReport.read_json(path)
    return report if report.content_sha256 == dataset.info.content_sha256 else None


def _near(dataset: Dataset, progress: Progress, done: list[str], skipped: list[str]) -> list[Pair]:
    count = dataset.info.images
    if count < FEWEST:
        skipped.append(f"near-duplicates: {count} images are too few to say what is alike")
        return []
    pairs = near_copies(dataset.copies, count, progress)
    done.append(
        f"near-duplicates: {len(pairs)} pairs of {count} images correlate {NEAR:.2f} or more"
    )
    return pairs


def _shortcuts(
    dataset: Dataset,
    images: Images,
    measured: dict[str, Floats],
    done: list[str],
    skipped: list[str],
) -> list[LeakFinding]:
    if not images.labels:
        skipped.append("shortcuts: the data set has no labels")
        return []
    skipped += [
        f"shortcuts: no {column} is known of any image"
        for column in ("site", "device")
        if not any(dataset.manifest[column].to_pylist())
    ]
    done.append(f"shortcuts: {', '.join(images.labels)}")
    return shortcuts(dataset, images, measured)


def _sides(
    images: Images, disc: Floats | None, done: list[str], skipped: list[str]
) -> list[LeakFinding]:
    if disc is None:
        skipped.append(
            "laterality: only photographs of the retina show their side (contract with region: "
            f"fundus_field, {LEAST_SIDE} px or more), and only where L or R is given"
        )
        return []
    findings, note = contradicting_sides(images, disc)
    done.append(note)
    return findings


def _looked_at(
    dataset: Dataset, images: Images, progress: Progress
) -> tuple[dict[str, Floats], Floats | None]:
    """Return what is measured on every picture: intensities, and the disc's side on fundus."""
    count = len(images)
    values = np.zeros((len(_MEASURED), count))
    fundus = dataset.contract.region == "fundus_field" and dataset.info.channels == 3
    fundus = fundus and dataset.info.size >= LEAST_SIDE
    sided = fundus and bool(np.isin(images.laterality, ("L", "R")).any())
    disc = np.zeros(count)
    pixels = dataset.copies
    for start in range(0, count, _BLOCK):
        places = np.arange(start, min(start + _BLOCK, count))
        pictures = pixels(places)
        small = binned(pictures, _BORDER).mean(-1)
        ring = np.concatenate(
            [small[:, 0], small[:, -1], small[:, 1:-1, 0], small[:, 1:-1, -1]], axis=1
        )
        flat = small.reshape(len(small), -1)
        values[:, places] = flat.mean(1), flat.std(1), ring.mean(1)
        if sided:
            disc[places] = disc_side(pictures)
        progress(int(places[-1]) + 1, count, "measuring pictures")
    return dict(zip(_MEASURED, values, strict=True)), disc if sided else None
