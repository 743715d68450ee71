"""Every engine ends in the same data set. ``make test-ray`` starts a real Ray; here its actor is called alone."""

import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pydicom
import pytest

from data_schemas.contract import Contract
from data_schemas.errors import UsageError
from data_schemas.progress import silent
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.imaging.workers import End, WorkerLimits
from pipeline.ingest import ray_engine
from pipeline.ingest.ingest import ingest
from pipeline.ingest.local_engine import PRELOAD
from pipeline.ingest.sources.open import open_source
from pipeline.ingest.store import open_dataset
from pipeline.ingest.taking import Image, take_file
from tests.ingest import taking_tasks
from tests.ingest.conftest import KEY, dicom, drawn

ROOT = Path(__file__).parents[2]


def test_the_digest_depends_on_no_number_of_workers(mixed, take_in):
    digests = {
        take_in(mixed.folder, mixed.labels, f"with{count}", workers=count)[0].content_sha256
        for count in (1, 2, 5)
    }
    assert len(digests) == 1


def test_files_that_kill_or_stop_a_decoder_are_refused(mixed, take_in, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.ingest.take_file", taking_tasks.take_badly)
    (mixed.folder / "crash").write_bytes(b"crash")
    (mixed.folder / "hang").write_bytes(b"hang")
    info, out = take_in(mixed.folder, None, limits=WorkerLimits(seconds=2.0))
    assert info.refused["DECODER_DIED"] == 1
    assert info.refused["TIMED_OUT"] == 1
    assert info.images == 11
    assert open_dataset(out).info == info
    monkeypatch.undo()  # another try: both are files like others now
    again, _ = take_in(mixed.folder, None)
    assert "TIMED_OUT" not in again.refused
    assert again.content_sha256 == info.content_sha256
    assert again.version == 2


def test_a_ray_actor_tells_every_file_once(mixed, contract):
    files = open_source(str(mixed.folder), progress=silent).files
    taker = ray_engine._Taker(
        partial(take_file, contract=contract, key=KEY), WorkerLimits(), PRELOAD
    )
    told = dict(one for some in taker.take(range(len(files)), files) for one in some)
    taker._crew.close()
    assert sorted(told) == list(range(len(files)))
    assert all(said[-1] == End() and len(said) == 2 for said in told.values())
    assert sum(isinstance(said[0], Image) for said in told.values()) == 13


def test_without_ray_it_is_said(mixed, take_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="needs Ray") as caught:
        take_in(mixed.folder, None, engine="ray")
    assert "--engine local" in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif("HILUM_RAY" not in os.environ, reason="half a minute: make test-ray")
def test_ray_ends_in_the_same_data_set(mixed, take_in, tmp_path):
    info, local = take_in(mixed.folder, mixed.labels)
    out = tmp_path / "ray"
    words = [
        "ingest",
        mixed.folder,
        "--labels",
        mixed.labels,
        "--set",
        "size=16",
        "--engine",
        "ray",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", *words, "--out", out, "--name", "source"],
        env=os.environ | {"HILUM_PSEUDONYM_KEY": KEY.decode(), "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("manifest.parquet", "refusals.parquet", "pixels-000.npy"):
        assert (out / name).read_bytes() == (local / name).read_bytes()
    assert open_dataset(out).info.content_sha256 == info.content_sha256


def test_every_frame_is_an_image_or_a_refusal_of_its_own(tmp_path):
    frames = np.stack([drawn(k) for k in range(5)])
    frames[2] = 7  # blank
    folder = tmp_path / "source"
    folder.mkdir()
    data = pydicom.dcmread(io.BytesIO(dicom(frames[0], "MRN-1")))
    data.NumberOfFrames, data.PixelData = 5, frames.tobytes()
    data.save_as(folder / "scan", enforce_file_format=True)
    every = Contract.model_validate({"name": "every", "size": 16, "accept": {"frames": "every"}})
    info = ingest(folder, None, tmp_path / "out", every, key=KEY, progress=silent)
    assert (info.files_read, info.images, info.patients) == (1, 4, 1)
    assert info.refused == {"BLANK": 1}
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest["frame"].to_pylist() == [0, 1, 3, 4]
    assert pq.read_table(tmp_path / "out/refusals.parquet")["frame"].to_pylist() == [2]
    for row, frame in enumerate((0, 1, 3, 4)):
        alone = prepare(read(dicom(frames[frame], "MRN-1"), every), every).pixels
        assert (dataset.pixels(np.array([row]))[0] == alone).all()


def test_images_of_one_study_or_one_file_are_of_one_patient(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for number, study in enumerate(("1.2.840.77", "1.2.840.77", "1.2.840.78")):
        data = pydicom.dcmread(io.BytesIO(dicom(drawn(number), "")))
        data.StudyInstanceUID = study
        data.save_as(folder / str(number), enforce_file_format=True)
    pages = [PIL.Image.fromarray(drawn(k)) for k in range(3, 6)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    every = Contract.model_validate({"name": "every", "size": 16, "accept": {"frames": "every"}})
    info = ingest(folder, None, tmp_path / "out", every, key=KEY, progress=silent)
    assert (info.images, info.patients) == (6, 3)
    for path in (tmp_path / "out").iterdir():
        assert b"1.2.840.7" not in path.read_bytes(), path.name
