"""The drawn archive: deterministic, valid DICOM, labels and truth that agree, faults in place."""

import csv
import hashlib
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from data_schemas.errors import UsageError
from pipeline.demo.cohort import FINDINGS, draw_cohort, plan_cohort, read_truth
from pipeline.demo.lesions import KINDS

PATIENTS = 10


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "cohort"
    return draw_cohort(folder, patients=PATIENTS, seed=3, workers=1)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_however_many_processes_draw(cohort, tmp_path):
    again = draw_cohort(tmp_path / "again", patients=PATIENTS, seed=3, workers=2)
    assert digests(again.folder) == digests(cohort.folder)
    assert again.rows == cohort.rows


def test_another_seed_draws_others():
    assert plan_cohort(20, 0) != plan_cohort(20, 1)


def test_the_plan_keeps_its_quotas():
    for seed in range(5):
        plans = plan_cohort(120, seed)
        grades = [eye.grade for plan in plans for eye in plan.eyes]
        assert set(grades) == {0, 1, 2, 3, 4}
        assert 0.38 <= np.mean([grade >= 2 for grade in grades]) <= 0.52
        assert sum(plan.as_dicom for plan in plans) == 60
        faults = Counter(eye.fault for plan in plans for eye in plan.eyes)
        assert faults == {"none": 228, "blur": 4, "dark": 4, "half_field": 4}
        same = np.mean([plan.eyes[0].grade == plan.eyes[1].grade for plan in plans])
        assert 0.65 <= same <= 0.95
        assert all(abs(plan.eyes[0].grade - plan.eyes[1].grade) <= 1 for plan in plans)


def test_labels_name_files_that_are_there(cohort):
    rows = rows_of(cohort.folder / "labels.csv")
    assert len(rows) == 2 * PATIENTS + 1  # and the copy
    for row in rows:
        assert (cohort.folder / "archive" / row["image"]).is_file()
        assert row["referable"] == str(int(int(row["dr_grade"]) >= 2))
        assert row["laterality"] in "LR"
    assert len({row["patient"] for row in rows}) == PATIENTS


def test_labels_and_masks_agree(cohort):
    labels = {row["image"]: row for row in rows_of(cohort.folder / "labels.csv")}
    truth = read_truth(cohort.folder)
    assert len(truth) == 2 * PATIENTS
    for digest, row in truth.items():
        source = cohort.folder / "archive" / row["image"]
        assert hashlib.sha256(source.read_bytes()).hexdigest() == digest
        with Image.open(cohort.folder / "truth/masks" / f"{digest}.png") as mask:
            bits = np.asarray(mask)
        label = labels[row["image"]]
        for finding in FINDINGS:
            assert label[finding] == str(int(int(row[finding]) > 0))
            if label[finding] == "0":
                assert not (bits & KINDS[finding]).any()
        if source.suffix != ".dcm":
            with Image.open(source) as picture:
                assert picture.size == bits.shape[::-1]


def test_half_of_it_is_dicom_with_a_patient_module_to_strip(cohort):
    files = sorted((cohort.folder / "archive").glob("PHANTOM-*/*.dcm"))
    assert len(files) == PATIENTS
    uids = set()
    for file in files:
        dataset = pydicom.dcmread(file)
        assert dataset.SOPClassUID.name == "Ophthalmic Photography 8 Bit Image Storage"
        assert dataset.file_meta.TransferSyntaxUID.name.startswith("JPEG Baseline")
        assert dataset.ImageLaterality == file.stem
        assert "Laterality" not in dataset
        assert str(dataset.PatientName).startswith("Phantom^")
        assert dataset.PatientID == file.parent.name
        assert dataset.PhotometricInterpretation == "YBR_FULL_422"
        assert dataset.NumberOfFrames == 1
        assert dataset.FrameIncrementPointer == 0x00181063
        uids.add(dataset.SOPInstanceUID)
    assert len(uids) == PATIENTS


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (dicom3tools)")
def test_dicom_is_valid(cohort):
    file = next((cohort.folder / "archive").glob("PHANTOM-*/*.dcm"))
    told = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    lines = (told.stdout + told.stderr).splitlines()
    assert not [line for line in lines if line.startswith(("Error", "Warning"))]
    assert any("OphthalmicPhotography8BitImage" in line for line in lines)


def test_the_faults_are_there_and_refused(cohort):
    from data_schemas.contract import Contract
    from data_schemas.errors import ImageError
    from pipeline.imaging.read import read
    from services.cli.settings import resolve

    contract = resolve(Contract, "contracts", ["fundus"], [])
    text, cut, copy, other = (cohort.folder / "archive" / name for name in cohort.faults)
    assert copy.read_bytes() in [
        (cohort.folder / "archive" / row.image).read_bytes() for row in cohort.rows
    ]
    for file in (text, cut, other):
        with pytest.raises(ImageError):
            read(file.read_bytes(), contract)


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        draw_cohort(tmp_path / "mine", patients=PATIENTS, seed=0)
    with pytest.raises(UsageError, match="at least"):
        draw_cohort(tmp_path / "new", patients=3, seed=0)
    assert not (tmp_path / "new").exists()
