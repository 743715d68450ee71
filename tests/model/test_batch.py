"""Every file ends as a row; the rows say what the single road says; nothing stops the batch."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.errors import UsageError
from data_schemas.files import sha256
from data_schemas.score import Score
from pipeline.model import batch
from pipeline.model.batch import score_files
from pipeline.model.runtime import Runtime
from pipeline.model.scoring import score_bytes


def _picture(seed):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8).repeat(20, 0).repeat(20, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        (folder / f"{seed}.png").write_bytes(_picture(seed))
    (folder / "5.txt").write_text("a letter to a colleague")
    (folder / "6.png").write_bytes(_picture(6)[:150])
    (folder / "7.dat").write_bytes(b"")
    (folder / "8.png").write_bytes(_picture(0))  # the same again: scored again
    return [*sorted(folder.iterdir()), folder / "vanished.png"]


def test_every_file_is_a_row_in_order(grades_package, files, tmp_path):
    seen = []
    out = tmp_path / "deep/scores.parquet"
    counts = score_files(
        grades_package,
        files,
        out,
        progress=lambda done, total, _: seen.append((done, total)),
        version="3",
    )
    table = pq.read_table(out)
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert (
        table.schema.remove_metadata() == batch.table_schema(grades_package.card).remove_metadata()
    )
    rows = table.to_pylist()
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert seen == [(n, 10) for n in range(1, 11)]
    assert sum(counts.values()) == 10
    assert counts["NOT_AN_IMAGE"] == 2
    assert counts["UNREADABLE"] == 1
    assert "FAULT" not in counts
    for row in rows:
        assert (row["verdict"] is None) == (row["refusal_code"] is not None)
        assert (row["refusal_code"] is None) == (row["refusal_reason"] is None)
        assert row["package_sha256"] == grades_package.sha256
    assert rows[0]["source_sha256"] == sha256(files[0].read_bytes()) == rows[8]["source_sha256"]
    assert rows[0]["logits"] == rows[8]["logits"]


def test_rows_say_what_one_file_alone_says(grades_package, files, tmp_path):
    score_files(grades_package, files, tmp_path / "scores.parquet", threads=3)
    runtime = Runtime(grades_package)
    for row in pq.read_table(tmp_path / "scores.parquet").slice(0, 5).to_pylist():
        alone = score_bytes(grades_package, runtime, Path(row["file"]).read_bytes())
        assert row["verdict"] == alone.verdict
        assert row["logits"] == pytest.approx(alone.logits)
        assert row["probability_dr_grade"] == alone.findings[0].probability
        assert row["state_dr_grade"] == alone.findings[0].state
        shares = [row[f"probability_dr_grade_{k}"] for k in range(5)]
        assert shares == list(alone.probabilities["dr_grade"].values())
        assert sum(shares) == pytest.approx(1)


def test_evidence_goes_beside_the_table(binary_package, files, tmp_path):
    folder = tmp_path / "maps"
    score_files(binary_package, files, tmp_path / "scores.parquet", evidence=folder)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 5 * 3  # 5 different pictures: an answer and two labels
    source = sha256(files[0].read_bytes())[:16]
    answer = Score.from_tree(json.loads((folder / f"{source}.json").read_text()), where="test")
    assert [found.overlay_png for found in answer.evidence] == ["", ""]
    with Image.open(folder / f"{source}-referable.png") as overlay:
        assert overlay.size == (480, 360)


def test_a_fault_of_ours_is_a_row_without_the_message(binary_package, files, tmp_path, monkeypatch):
    broken = files[2].read_bytes()
    real = score_bytes

    def sometimes(package, runtime, data, **rest):
        if data == broken:
            raise RuntimeError("Mrs Example, born 1950")
        return real(package, runtime, data, **rest)

    monkeypatch.setattr(batch, "score_bytes", sometimes)
    counts = score_files(binary_package, files, tmp_path / "scores.parquet")
    row = pq.read_table(tmp_path / "scores.parquet").to_pylist()[2]
    assert counts["FAULT"] == 1
    assert row["refusal_code"] == "FAULT"
    assert "RuntimeError" in row["refusal_reason"]
    assert "Example" not in row["refusal_reason"]


def test_an_interrupted_batch_leaves_the_old_table(binary_package, files, tmp_path):
    out = tmp_path / "scores.parquet"
    out.write_bytes(b"old")

    def stop(done, total, note):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_files(binary_package, files, out, progress=stop)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_place_that_cannot_be_written_is_named(binary_package, files, tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        score_files(binary_package, files, tmp_path)
    with pytest.raises(UsageError, match="can't be written"):
        score_files(binary_package, files, files[0] / "below/scores.parquet")
