"""Draws the demo's cohort: an archive with faults, a label table, and the truth beside it.

::

    OUT/archive/          what a clinic would hand over: DICOM, JPEG, PNG, and a few wrong files
    OUT/labels.csv        image, patient, laterality, dr_grade, referable, one column per finding
    OUT/truth/truth.csv   what was drawn, by the file's SHA-256
    OUT/truth/masks/      SHA-256.png, the bits of lesions.KINDS on the file's own pixels
"""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydicom.data import get_testdata_file

from data_schemas.errors import UsageError
from data_schemas.files import sha256
from data_schemas.progress import Progress, silent
from data_schemas.terms import Laterality
from pipeline.demo.draw import Drawing, Fault, draw_eye, draw_person
from pipeline.demo.lesions import KINDS
from pipeline.demo.photograph import Phantom, as_dicom, as_jpeg, as_png

GRADE_SHARES = (0.38, 0.16, 0.2, 0.11, 0.15)
"""Share of patients whose first eye has grade 0 to 4; nearly half are referable."""
FINDINGS = ("microaneurysms", "haemorrhages", "exudates", "new_vessels")
LABEL_COLUMNS = ("image", "patient", "laterality", "dr_grade", "referable", *FINDINGS)
FEWEST_PATIENTS = 8
GIVEN_NAMES = ("Ada", "Bela", "Cleo", "Dario", "Enna", "Falk", "Gita", "Hugo", "Ines", "Jori")


@dataclass(frozen=True, slots=True)
class EyePlan:
    """What is to be drawn for one eye."""

    laterality: Laterality
    grade: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """What is to be drawn for one patient."""

    seed: int
    index: int
    as_dicom: bool
    as_png: bool
    eyes: tuple[EyePlan, EyePlan]


@dataclass(frozen=True, slots=True)
class Row:
    """One written photograph."""

    image: str
    patient: str
    eye: EyePlan
    sha256: str
    counts: dict[str, int]
    lesion_share: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """What was drawn, in the order of the label table."""

    folder: Path
    rows: tuple[Row, ...]
    faults: tuple[str, ...]


def draw_cohort(
    out: Path, *, patients: int, seed: int, workers: int = 0, progress: Progress = silent
) -> Cohort:
    """Draw ``patients`` patients, both eyes, into a new folder ``out``.

    Same arguments, same bytes (on one machine: rounding may differ between processors).

    Parameters
    ----------
    workers
        Processes that draw; 0: one for each core this process may use.

    Raises
    ------
    UsageError
        If ``out`` exists, or ``patients`` is too small for every grade to be there.
    """
    if patients < FEWEST_PATIENTS:
        raise UsageError(
            f"a cohort needs at least {FEWEST_PATIENTS} patients, got {patients}",
            where="--patients",
        )
    if out.exists():
        raise UsageError("exists already; a cohort is drawn into a new folder", where=out)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for folder in ("archive", "truth/masks"):
        (part / folder).mkdir(parents=True)
    plans = plan_cohort(patients, seed)
    rows: list[Row] = []
    for done, drawn in enumerate(_drawn(plans, part, workers), start=1):
        rows += drawn
        progress(done, patients, "drawing patients")
    faults = _add_faults(part / "archive", rows)
    _write_tables(part, rows, faults)
    part.rename(out)
    return Cohort(out, tuple(rows), tuple(faults))


def read_truth(folder: Path) -> dict[str, dict[str, str]]:
    """Return ``truth.csv`` of a drawn cohort: SHA-256 of the file -> its row."""
    with (folder / "truth/truth.csv").open(newline="") as stream:
        return {row["sha256"]: row for row in csv.DictReader(stream)}


def plan_cohort(patients: int, seed: int) -> list[PatientPlan]:
    """Decide grades, faults and formats: quotas, shuffled, so that every seed has the same mix."""
    rng = np.random.default_rng((seed, 0))
    edges = np.cumsum(GRADE_SHARES) * patients
    grades = rng.permutation(np.searchsorted(edges, np.arange(patients), side="right").clip(0, 4))
    dicom = rng.permutation(np.arange(patients) % 2 == 0)
    png = rng.permutation(np.arange(patients) % 4 == 0)
    faults = _fault_places(rng, patients)
    plans = []
    for index in range(patients):
        first = int(grades[index])
        # the two eyes of a patient agree in three of four pairs and seldom differ by more than one
        step = int(rng.choice((-1, 0, 1), p=(0.11, 0.77, 0.12)))
        second = int(np.clip(first + step, 0, 4))
        pair = (first, second) if rng.uniform() < 0.5 else (second, first)
        eyes = (
            EyePlan("R", pair[0], faults.get((index, "R"), "none")),
            EyePlan("L", pair[1], faults.get((index, "L"), "none")),
        )
        plans.append(PatientPlan(seed, index, bool(dicom[index]), bool(png[index]), eyes))
    return plans


def _fault_places(rng: np.random.Generator, patients: int) -> dict[tuple[int, str], Fault]:
    kinds: tuple[Fault, ...] = ("blur", "dark", "half_field")
    each = max(1, round(patients / 30))
    chosen = rng.choice(patients, size=each * len(kinds), replace=False)
    return {
        (int(index), "RL"[int(rng.integers(2))]): kinds[place % len(kinds)]
        for place, index in enumerate(chosen)
    }


def _drawn(plans: list[PatientPlan], part: Path, workers: int) -> Iterator[list[Row]]:
    workers = workers or _cores()
    if workers == 1 or len(plans) < 2 * workers:
        yield from (draw_patient(plan, part) for plan in plans)
        return
    # spawn: a forked copy of a process with threads may hang
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw_patient, plans, [part] * len(plans), chunksize=2)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def draw_patient(plan: PatientPlan, folder: Path) -> list[Row]:
    """Draw both eyes of a patient and write photographs and masks below ``folder``."""
    rng = np.random.default_rng((plan.seed, 1, plan.index))
    person = draw_person(rng)
    phantom = _phantom(rng, plan.index)
    rows = []
    for eye in plan.eyes:
        drawing = draw_eye(rng, person, eye.laterality, eye.grade, eye.fault)
        quality = int(rng.integers(86, 95))
        data, suffix = _encoded(drawing, plan, eye, phantom, quality)
        image = f"{phantom.identifier}/{eye.laterality}{suffix}"
        digest = sha256(data)
        target = folder / "archive" / image
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
        (folder / "truth/masks" / f"{digest}.png").write_bytes(as_png(drawing.mask))
        share = float((drawing.mask > 0).mean())
        rows.append(Row(image, phantom.identifier, eye, digest, drawing.counts, share))
    return rows


def _encoded(
    drawing: Drawing, plan: PatientPlan, eye: EyePlan, phantom: Phantom, quality: int
) -> tuple[bytes, str]:
    if plan.as_dicom:
        entropy = f"hilum-demo/{plan.seed}/{plan.index} {eye.laterality}"
        data = as_dicom(drawing.pixels, phantom, eye.laterality, quality=quality, entropy=entropy)
        return data, ".dcm"
    if plan.as_png:
        return as_png(drawing.pixels), ".png"
    return as_jpeg(drawing.pixels, quality=quality), ".jpg"


def _phantom(rng: np.random.Generator, index: int) -> Phantom:
    return Phantom(
        name=f"Phantom^{GIVEN_NAMES[int(rng.integers(len(GIVEN_NAMES)))]}",
        identifier=f"PHANTOM-{index + 1:04d}",
        birth_date=f"{rng.integers(1935, 1995)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        sex=str(rng.choice(("F", "M"))),
        study_date=f"2026{rng.integers(1, 7):02d}{rng.integers(1, 29):02d}",
    )


def _add_faults(archive: Path, rows: list[Row]) -> list[str]:
    """Put in what every real archive has: files that must be refused, each with its reason."""
    dicom = [row.image for row in rows if row.image.endswith(".dcm")]
    plain = [row.image for row in rows if not row.image.endswith(".dcm")]
    copy = f"copy-of-{Path(plain[0]).name}"
    (archive / "read-me.txt").write_text("Drawn photographs; every patient here is made up.\n")
    whole = (archive / dicom[0]).read_bytes()
    (archive / "cut-off.dcm").write_bytes(whole[: len(whole) // 2])
    shutil.copyfile(archive / plain[0], archive / copy)
    slice_of_ct = get_testdata_file("CT_small.dcm", download=False)
    if not isinstance(slice_of_ct, str):
        raise UsageError("pydicom's own CT slice is missing from this installation")
    shutil.copyfile(slice_of_ct, archive / "another-department.dcm")
    return ["read-me.txt", "cut-off.dcm", copy, "another-department.dcm"]


def _write_tables(folder: Path, rows: list[Row], faults: list[str]) -> None:
    labels = io.StringIO(newline="")
    table = csv.writer(labels, lineterminator="\n")
    table.writerow(LABEL_COLUMNS)
    for row in rows:
        table.writerow((row.image, *_labels(row)))
    # the copy carries its original's labels: it is refused for being a copy, not for lacking a label
    original = next(row for row in rows if not row.image.endswith(".dcm"))
    table.writerow((faults[2], *_labels(original)))
    (folder / "labels.csv").write_text(labels.getvalue())
    truth = io.StringIO(newline="")
    table = csv.writer(truth, lineterminator="\n")
    table.writerow(("sha256", "image", "dr_grade", "fault", "lesion_share", *KINDS))
    for row in rows:
        counts = [row.counts.get(kind, 0) for kind in KINDS]
        share = f"{row.lesion_share:.6f}"
        table.writerow((row.sha256, row.image, row.eye.grade, row.eye.fault, share, *counts))
    (folder / "truth/truth.csv").write_text(truth.getvalue())


def _labels(row: Row) -> tuple[str | int, ...]:
    findings = [int(row.counts.get(kind, 0) > 0) for kind in FINDINGS]
    grade = row.eye.grade
    return row.patient, row.eye.laterality, grade, int(grade >= 2), *findings
