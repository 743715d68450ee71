"""The leak doctor on real data: what is known to be wrong with them is named, by digest."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from data_schemas import settings
from data_schemas.contract import Contract
from data_schemas.files import sha256
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.leaks.examine import kept_report
from pipeline.ingest.store import open_dataset

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"
KEY = b"k" * 16


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return SHARED / name


def contract(name: str) -> Contract:
    return settings.resolve(Contract, [settings.from_file(ROOT / f"configs/contracts/{name}.yaml")])


def medmnist(name: str, out: Path, **options):
    ingest(shared(f"medmnist/{name}.npz"), None, out, contract("medmnist"), key=KEY, progress=silent, options=Options(**options))  # fmt: skip
    dataset = open_dataset(out)
    return dataset, kept_report(dataset)


@pytest.mark.needs_shared
def test_breastmnist_names_the_known_copies(tmp_path):
    _, report = medmnist("breastmnist", tmp_path / "breast")
    with np.load(shared("medmnist/breastmnist.npz")) as arrays:
        train, val, test = (arrays[f"{part}_images"] for part in ("train", "val", "test"))

    def standard(images):
        flat = images.reshape(len(images), -1).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    # the reference page's own figures, by plain correlation
    nearest = (standard(test) @ standard(np.concatenate([train, val])).T).max(1)
    assert [int((nearest > limit).sum()) for limit in (0.99, 0.995, 0.999)] == [42, 28, 11]
    copies = {f.source_sha256[0] for f in report.findings if f.kind == "near_duplicate"}
    conflicts = [f for f in report.findings if f.kind == "conflicting_label"]
    (pair,) = [f for f in conflicts if f.value == 1.0]
    twin = sha256(train[115].tobytes())
    assert twin == sha256(test[76].tobytes())
    assert pair.source_sha256 == (twin, twin)
    assert "`label` 0 and 1" in pair.sentence
    # one of the 42 is that pair, whose training image was refused
    known = {sha256(test[k].tobytes()) for k in np.flatnonzero(nearest > 0.99)} - {twin}
    assert len(known) == 41
    assert known <= copies
    found = [sha256(image.tobytes()) for image in test if sha256(image.tobytes()) in copies]
    assert len(found) == 56
    assert {f.severity for f in report.findings} == {"warns"}


@pytest.mark.needs_shared
def test_breastmnist_without_the_copies_keeps_its_test_split_whole(tmp_path):
    dataset, report = medmnist("breastmnist", tmp_path / "breast", drop_near_duplicates=True)
    assert dataset.info.splits["test"] == 156
    assert dataset.info.refused["NEAR_DUPLICATE"] > 56
    assert not [f for f in report.findings if f.kind == "near_duplicate"]


@pytest.mark.needs_shared
@pytest.mark.parametrize(("name", "copies"), [("retinamnist", 0), ("pneumoniamnist", 0)])
def test_other_sets_raise_no_false_alarm_about_test_images(name, copies, tmp_path):
    """Neither set has a test image with a known copy; plain correlation would name hundreds."""
    dataset, report = medmnist(name, tmp_path / name)
    test = set(np.array(dataset.manifest["source_sha256"].to_pylist())[dataset.indices("test")])
    near = [f for f in report.findings if f.kind == "near_duplicate"]
    assert sum(bool(test & set(f.source_sha256)) for f in near) == copies


def fundus(tmp_path: Path, first: int):
    source = shared("fundus_rahim")
    with (source / "labels.csv").open(encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream) if r["patient"] >= f"Patient{first:03}"]
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    for row in rows:
        (folder / row["image"]).symlink_to((source / row["image"]).resolve())
    names = ["image", "patient", "laterality", "dr_grade", "maculopathy", "referable", "aded"]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    ingest(folder, folder / "labels.csv", tmp_path / "out", contract("fundus"), key=KEY, progress=silent)  # fmt: skip
    dataset = open_dataset(tmp_path / "out")
    digests = {row["image"]: sha256((source / row["image"]).read_bytes()) for row in rows}
    lines = {row["image"]: number for number, row in enumerate(rows, start=2)}
    return dataset, kept_report(dataset), digests, lines


def check_fundus(report, digests, lines):
    doubled = [f for f in report.findings if f.kind == "conflicting_label"]
    for side in "LR":
        files = [f"images/Patient{number}_{side}.jpg" for number in (299, 300)]
        (finding,) = [f for f in doubled if set(f.source_sha256) == {digests[x] for x in files}]
        assert sorted(finding.label_lines) == sorted(lines[x] for x in files)
        assert len(finding.patients) == 2
        assert "`dr_grade` 2 and 3" in finding.sentence
        assert all(digests[x][:12] in finding.sentence for x in files)
    assert len(doubled) == 2
    (swapped,) = [f for f in report.findings if f.kind == "laterality"]
    eyes = [f"images/Patient276_{side}.jpg" for side in "LR"]
    assert set(swapped.source_sha256) == {digests[x] for x in eyes}
    assert sorted(swapped.label_lines) == sorted(lines[x] for x in eyes)
    assert swapped.sentence.startswith("both eyes of patient")
    assert len(report.findings) == 3


@pytest.mark.needs_shared
def test_fundus_names_the_doubled_patient_and_the_swapped_eyes(tmp_path):
    _, report, digests, lines = fundus(tmp_path, 270)
    check_fundus(report, digests, lines)


@pytest.mark.slow
@pytest.mark.needs_shared
def test_all_fundus_photographs_raise_no_other_finding(tmp_path):
    dataset, report, digests, lines = fundus(tmp_path, 1)
    assert dataset.info.images > 580
    check_fundus(report, digests, lines)
    note = next(line for line in report.examined if line.startswith("laterality"))
    right, asked = map(int, re.search(r"agrees in (\d+) of (\d+)", note).groups())
    # the two swapped eyes, and at most three in doubt
    assert asked - right <= 5
