"""Real sources: MedMNIST's official splits, and the doubled patient of fundus_rahim."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_schemas import settings
from data_schemas.contract import Contract
from data_schemas.errors import DatasetError
from data_schemas.files import sha256
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.sources.medmnist import open_npz
from pipeline.ingest.store import open_dataset

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"


def preset(name: str) -> Contract:
    return settings.resolve(Contract, [settings.from_file(ROOT / f"configs/contracts/{name}.yaml")])


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"needs ../shared/data/{name}")
    return SHARED / name


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "splits", "refused"),
    [
        ("retinamnist", {"train": 1080, "tune": 60, "calibration": 60, "test": 400}, {}),
        # one image is in train and test with opposite labels: train loses it
        ("breastmnist", {"train": 545, "tune": 39, "calibration": 39, "test": 156}, {"CONFLICTING_LABEL": 1}),
    ],
)  # fmt: skip
def test_medmnist_keeps_its_official_test_split(name, splits, refused, tmp_path):
    source = shared(f"medmnist/{name}.npz")
    said: list[str] = []
    out = tmp_path / name
    info = ingest(source, None, out, preset("medmnist"), key=b"k" * 16, progress=silent, options=Options(say=said.append))  # fmt: skip
    assert info.splits == splits
    assert info.refused == refused
    assert any("is the official file" in remark for remark in said)
    dataset = open_dataset(out)
    with np.load(source) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"].ravel()
    test = dataset.indices("test")
    stored = dataset.pixels(test)
    by_digest = {sha256(image.tobytes()): k for k, image in enumerate(images)}
    for place, row in enumerate(test):
        k = by_digest[dataset.manifest["source_sha256"][int(row)].as_py()]
        expected = images[k] if images[k].ndim == 3 else np.repeat(images[k][..., None], 3, axis=2)
        assert (stored[place] == expected).all()
        assert dataset.labels(info.labels[0].name)[row] == labels[k]


@pytest.mark.needs_shared
def test_pneumonia_loses_its_doubles_but_no_test_image():
    files = open_npz(shared("medmnist/pneumoniamnist.npz"), silent).files
    given = [file.given for file in files if file.given is not None]
    assert sum(what.official_test for what in given) == 624
    halves = [what.split for what in given].count("tune")
    assert halves == 262


@pytest.mark.needs_shared
def test_the_doubled_patient_is_found(tmp_path):
    source = shared("fundus_rahim")
    with (source / "labels.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["patient"] >= "Patient290"]
    # Patient299 and Patient300 are one photograph each under two numbers and two grades
    table = tmp_path / "labels.csv"
    folder = tmp_path / "source/images"
    folder.mkdir(parents=True)
    for row in rows:
        (tmp_path / "source" / row["image"]).symlink_to((source / row["image"]).resolve())
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["image", "patient", "laterality", "dr_grade", "referable"], extrasaction="ignore")  # fmt: skip
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "dataset"
    info = ingest(tmp_path / "source", table, out, preset("fundus"), key=b"k" * 16, progress=silent)
    assert info.refused["CONFLICTING_LABEL"] == 4
    reasons = pq.read_table(out / "refusals.parquet").to_pylist()
    expected = {
        sha256((source / row["image"]).read_bytes()) for row in rows if row["conflict"] == "1"
    }
    assert {r["source_sha256"] for r in reasons if r["code"] == "CONFLICTING_LABEL"} == expected
    # the referable label agrees, so that with it alone one of each pair stays
    only = ingest(tmp_path / "source", table, tmp_path / "only", preset("fundus"), key=b"k" * 16, progress=silent, options=Options(labels=("referable",)))  # fmt: skip
    assert only.refused.get("CONFLICTING_LABEL") is None
    assert only.refused["DUPLICATE"] == 2


@pytest.mark.needs_shared
def test_any_takes_the_whole_dicom_folder(tmp_path):
    info = ingest(
        shared("dicom"), None, tmp_path / "d", preset("any"), key=b"k" * 16, progress=silent
    )
    assert info.files_read == 499
    assert info.images + sum(info.refused.values()) == 499
    assert info.images > 180


def test_other_npz_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(DatasetError, match="not a MedMNIST file"):
        open_npz(path, silent)
    path.write_bytes(b"PK junk")
    with pytest.raises(DatasetError, match="can't be read"):
        open_npz(path, silent)
    arrays = {f"{part}_images": np.zeros((2, 4, 4), np.uint8) for part in ("train", "val", "test")}
    arrays |= {
        f"{part}_labels": np.array([[0], ["x"]], object) for part in ("train", "val", "test")
    }
    np.savez(path, **arrays)
    with pytest.raises(DatasetError, match="plain arrays"):
        open_npz(path, silent)
