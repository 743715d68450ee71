"""Every file ends as a row; the rows say what the single road says; nothing stops the batch."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.errors import PackageError, UsageError
from data_schemas.files import sha256
from data_schemas.progress import silent
from data_schemas.score import Score
from pipeline.batch import score as batch
from pipeline.batch.rows import table_schema
from pipeline.batch.score import Options, score_sources
from pipeline.batch.task import Model, Stopped, score_file
from pipeline.imaging.workers import WorkerLimits
from pipeline.ingest.sources.open import open_source
from pipeline.model.opening import CheckError, Wish
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes
from tests.batch import bad_tasks
from tests.batch.drawn_files import picture
from tests.model.precise import write_precise

ONE = Options(workers=1)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    (folder / "5.txt").write_text("a letter to a colleague")
    (folder / "6.png").write_bytes(picture(6)[:150])
    (folder / "7.dat").write_bytes(b"")
    (folder / "8.png").write_bytes(picture(0))  # the same again: scored again
    (folder / "9.png").symlink_to("nowhere")
    return folder


def test_every_file_is_a_row_in_order(grades_package, folder, tmp_path):
    seen, said = [], []
    out = tmp_path / "deep/scores.parquet"
    counts = score_sources(
        grades_package,
        [str(folder)],
        out,
        Options(version="3", workers=2, say=said.append),
        lambda done, total, note: seen.append((done, total)) if note == "scoring" else None,
    )
    table = pq.read_table(out)
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert table.schema.remove_metadata() == table_schema(grades_package.card).remove_metadata()
    rows = table.to_pylist()
    names = [f"{k}.png" for k in range(5)] + ["5.txt", "6.png", "7.dat", "8.png"]
    assert [row["file"] for row in rows] == [f"{folder}/{name}" for name in names]
    assert seen == [(n, 9) for n in range(10)]
    assert said == ["1 link leads nowhere"]
    assert sum(counts.values()) == 9
    assert counts["NOT_AN_IMAGE"] == 2
    assert "FAULT" not in counts
    for row in rows:
        assert (row["verdict"] is None) == (row["refusal_code"] is not None)
        assert (row["refusal_code"] is None) == (row["refusal_reason"] is None)
        assert row["package_sha256"] == grades_package.sha256
    assert rows[0]["source_sha256"] == sha256(picture(0)) == rows[8]["source_sha256"]
    assert rows[5]["source_sha256"] == sha256(b"a letter to a colleague")
    assert rows[0]["logits"] == rows[8]["logits"]
    assert not list(out.parent.glob(".*"))


def test_rows_say_what_one_file_alone_says(grades_package, folder, tmp_path):
    score_sources(grades_package, [str(folder)], tmp_path / "scores.parquet", ONE)
    runtime = Runtime(grades_package)
    for row in pq.read_table(tmp_path / "scores.parquet").slice(0, 5).to_pylist():
        alone = score_bytes(grades_package, runtime, Path(row["file"]).read_bytes())
        assert row["verdict"] == alone.verdict
        assert tuple(row["logits"]) == alone.logits
        assert row["prepared_sha256"] == alone.image.prepared_sha256
        assert row["runtime"] == alone.model.runtime
        assert row["probability_dr_grade"] == alone.findings[0].probability
        assert row["state_dr_grade"] == alone.findings[0].state
        shares = [row[f"probability_dr_grade_{k}"] for k in range(5)]
        assert shares == list(alone.probabilities["dr_grade"].values())
        assert sum(shares) == pytest.approx(1)


def test_files_archives_lists_and_arrays_are_sources(binary_package, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("eyes.zip", "w") as archive:
        archive.writestr("a/1.png", picture(1))
        archive.writestr("letter.txt", "dear colleague")
    Path("some.txt").write_text("in/2.png\nin/3.png\n")
    pixels = np.asarray(Image.open(folder / "4.png"))
    np.savez(
        "eyes.npz",
        train_images=pixels[None], train_labels=np.zeros((1, 1), np.uint8),
        val_images=pixels[None], val_labels=np.zeros((1, 1), np.uint8),
        test_images=pixels[None], test_labels=np.zeros((1, 1), np.uint8),
    )  # fmt: skip
    sources = ["in/0.png", "eyes.zip", "some.txt", "in/0.png", "eyes.npz"]
    counts = score_sources(binary_package, sources, Path("scores.parquet"), ONE)
    rows = pq.read_table("scores.parquet").to_pylist()
    assert [row["file"] for row in rows[:5]] == [
        "in/0.png",
        "eyes.zip/a/1.png",
        "eyes.zip/letter.txt",
        "in/2.png",
        "in/3.png",
    ]
    assert sum(counts.values()) == len(rows) == 8
    assert counts["NOT_AN_IMAGE"] == 1
    assert rows[1]["source_sha256"] == sha256(picture(1))
    # the same pixels from an array and from a file: the same image, the same answer
    score_sources(binary_package, ["in/4.png"], Path("four.parquet"), ONE)
    [four] = pq.read_table("four.parquet").to_pylist()
    assert rows[5]["prepared_sha256"] == four["prepared_sha256"]
    assert rows[5]["logits"] == four["logits"]


def test_any_number_of_workers_writes_the_same_bytes(binary_package, folder, tmp_path):
    written = []
    for workers in (1, 3):
        out = tmp_path / f"{workers}.parquet"
        score_sources(binary_package, [str(folder)], out, Options(workers=workers))
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_evidence_goes_beside_the_table(binary_package, folder, tmp_path):
    maps = tmp_path / "maps"
    options = Options(workers=1, evidence=maps)
    score_sources(binary_package, [str(folder)], tmp_path / "scores.parquet", options)
    names = sorted(path.name for path in maps.iterdir())
    assert len(names) == 5 * 3  # 5 different pictures: an answer and two labels
    source = sha256(picture(0))[:16]
    answer = Score.from_tree(json.loads((maps / f"{source}.json").read_text()), where="test")
    assert [found.overlay_png for found in answer.evidence] == ["", ""]
    with Image.open(maps / f"{source}-referable.png") as overlay:
        assert overlay.size == (480, 360)


def test_evidence_that_cannot_be_written_stops_the_batch(binary_package, folder, tmp_path):
    (tmp_path / "maps").write_text("a file")
    options = Options(workers=1, evidence=tmp_path / "maps")
    with pytest.raises(PackageError, match="can't be written"):
        score_sources(binary_package, [str(folder)], tmp_path / "scores.parquet", options)
    assert not (tmp_path / "scores.parquet").exists()


def test_what_kills_or_stops_a_decoder_is_one_row(binary_package, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "score_file", bad_tasks.score_badly)
    for name in ("crash", "hang", "zz", "fault"):
        (folder / name).write_bytes(picture(hash(name) % 97))
    out = tmp_path / "scores.parquet"
    options = Options(workers=1, limits=WorkerLimits(seconds=3.0))
    counts = score_sources(binary_package, [str(folder)], out, options)
    rows = {Path(row["file"]).name: row for row in pq.read_table(out).to_pylist()}
    assert rows["crash"]["refusal_code"] == "DECODER_DIED"
    assert rows["hang"]["refusal_code"] == "TIMED_OUT"
    assert rows["hang"]["source_sha256"] == sha256((folder / "hang").read_bytes())
    assert rows["fault"]["refusal_code"] == "FAULT"
    assert rows["fault"]["refusal_reason"] == "a fault of hilum: RuntimeError"
    assert rows["4.png"]["verdict"] is not None
    assert len(rows) == sum(counts.values()) == 13


def test_a_package_that_changes_under_way_stops_the_batch(binary_package, folder, tmp_path):
    copy = tmp_path / "package"
    copy.mkdir()
    for path in binary_package.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    package = open_package(copy)
    out = tmp_path / "scores.parquet"

    def spoil(done, _, note):
        if note == "scoring" and done == 0:
            (copy / "model.onnx").write_bytes(b"another")

    with pytest.raises(PackageError):
        score_sources(package, [str(folder)], out, ONE, spoil)
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_named(binary_package, folder, tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        score_sources(binary_package, [str(folder)], tmp_path)
    with pytest.raises(UsageError, match="can't be written"):
        score_sources(binary_package, [str(folder)], folder / "0.png/below/scores.parquet")
    with pytest.raises(UsageError, match="no such file or folder"):
        score_sources(binary_package, [str(tmp_path / "gone")], tmp_path / "scores.parquet")


def test_a_batch_in_int8_says_so_in_every_row(folder, tmp_path):
    package = write_precise(tmp_path / "model")
    for name, wish in (("plain", Wish()), ("small", Wish("onnxruntime", "int8"))):
        score_sources(
            package, [str(folder)], tmp_path / f"{name}.parquet", Options(workers=1, wish=wish)
        )
    plain, small = (
        [row for row in pq.read_table(tmp_path / f"{name}.parquet").to_pylist() if row["verdict"]]
        for name in ("plain", "small")
    )
    assert {row["runtime"].split()[2] for row in plain} == {"fp32"}
    assert {row["runtime"].split()[2] for row in small} == {"int8"}
    assert [row["verdict"] for row in plain] == [row["verdict"] for row in small]
    assert [row["logits"] for row in plain] != [row["logits"] for row in small]


def test_a_batch_in_a_precision_without_evidence_is_refused(grades_package, folder, tmp_path):
    with pytest.raises(CheckError, match="has no int8 graph"):
        score_sources(
            grades_package,
            [str(folder)],
            tmp_path / "out.parquet",
            Options(workers=1, wish=Wish("auto", "int8")),
        )
    assert not (tmp_path / "out.parquet").exists()


def test_a_worker_that_would_score_by_another_runtime_stops_the_batch(grades_package, tmp_path):
    model = Model(str(grades_package.folder), grades_package.sha256, "onnxruntime 0.0.1 fp32", "")
    file = open_source(str(_one(tmp_path)), progress=silent).files[0]
    (said,) = score_file(file, model)
    assert isinstance(said, Stopped)
    assert "the batch began with onnxruntime 0.0.1 fp32" in said.what


def _one(folder):
    (folder / "one").mkdir()
    (folder / "one" / "0.png").write_bytes(picture(0))
    return folder / "one"
