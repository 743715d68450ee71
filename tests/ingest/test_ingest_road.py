"""From a mixed folder to a data set: every file an image or a refusal, the same each time."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_schemas.contract import Contract
from data_schemas.dataset import MANIFEST_COLUMNS, REFUSAL_COLUMNS, DatasetInfo
from data_schemas.errors import DatasetError, UsageError
from data_schemas.files import sha256
from data_schemas.progress import silent
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read
from pipeline.ingest.ingest import ingest
from pipeline.ingest.patients import pseudonym
from pipeline.ingest.store import open_dataset
from tests.ingest.conftest import write_labels


def test_every_file_ends_as_an_image_or_a_refusal(mixed, take_in):
    info, out = take_in(mixed.folder, mixed.labels)
    assert info.images == 8
    assert info.refused == {
        "BLANK": 1,
        "CONFLICTING_LABEL": 2,
        "DUPLICATE": 1,
        "NOT_AN_IMAGE": 1,
        "NO_LABEL": 2,
        "TRUNCATED": 1,
    }
    files = [p for p in mixed.folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    assert info.files_read == info.images + sum(info.refused.values()) == len(files) - 1
    assert {p.name for p in out.iterdir()} == {
        "dataset.html", "dataset.json", "contract.json", "funnel.svg", "journal", "manifest.parquet", "pixels-000.npy",
        "refusals.parquet", "leaks.json",
    }  # fmt: skip
    refusals = pq.read_table(out / "refusals.parquet")
    assert refusals.column_names == list(REFUSAL_COLUMNS)
    digests = {sha256(path.read_bytes()) for path in files}
    assert set(refusals["source_sha256"].to_pylist()) <= digests


def test_the_manifest_has_its_columns_and_sound_values(mixed, take_in):
    _, out = take_in(mixed.folder, mixed.labels)
    dataset = open_dataset(out)
    manifest = dataset.manifest
    assert manifest.column_names == [*MANIFEST_COLUMNS, "label_grade", "label_referable_dr"]
    assert manifest["source_sha256"].to_pylist() == sorted(manifest["source_sha256"].to_pylist())
    grades = dataset.labels("grade")
    assert (dataset.labels("referable_dr") == (grades >= 2)).all()
    kinds = {label.name: label.kind for label in dataset.info.labels}
    assert kinds == {"grade": "ordinal", "referable_dr": "binary"}
    sides = manifest["laterality"].to_pylist()
    assert sorted(sides) == ["L", "L", "U", "U", "U", "U", "U", "U"]
    known = {
        pseudonym(b"a key for tests only", name) for name in ("P0", "P1", "P2", "MRN-0", "MRN-1")
    }
    assert set(dataset.patients()) == known


def test_pixels_are_those_of_the_road(mixed, take_in, contract):
    _, out = take_in(mixed.folder, mixed.labels)
    dataset = open_dataset(out)
    by_digest = {}
    for path in mixed.folder.rglob("*"):
        if path.is_file():
            by_digest[sha256(path.read_bytes())] = path
    stored = dataset.pixels(np.arange(dataset.info.images)[::-1])[::-1]
    for row, digest in enumerate(dataset.manifest["source_sha256"].to_pylist()):
        expected = prepare(read(by_digest[digest].read_bytes(), contract), contract).pixels
        assert (stored[row] == expected).all()
        assert sha256(stored[row].tobytes()) == dataset.manifest["pixel_sha256"][row].as_py()


def test_nothing_identifying_is_written(mixed, take_in):
    _, out = take_in(mixed.folder, mixed.labels)
    written = b"".join(path.read_bytes() for path in out.iterdir())
    for secret in (b"MRN-", b"Doe", b"photo1", b"P10", b"one.png", b"readme"):
        assert secret not in written


def test_the_same_input_and_key_give_the_same_digest_wherever_it_lies(mixed, take_in, tmp_path):
    first, _ = take_in(mixed.folder, mixed.labels, "a")
    moved = tmp_path / "elsewhere"
    shutil.copytree(mixed.folder, moved)
    second, _ = take_in(moved, moved / "labels.csv", "b", name="source")
    assert first == second
    changed = moved / "deep/photo1.png"
    changed.write_bytes((moved / "again.png").read_bytes())
    third, _ = take_in(moved, moved / "labels.csv", "c")
    assert third.content_sha256 != first.content_sha256


def test_only_the_named_labels(mixed, take_in):
    info, _ = take_in(mixed.folder, mixed.labels, labels=("Referable DR",))
    assert [label.name for label in info.labels] == ["referable_dr"]


def test_labels_are_optional(mixed, take_in):
    info, out = take_in(mixed.folder, None)
    assert info.labels == ()
    # the table counts as a file now, and equal pixels have nothing to contradict
    assert info.refused == {"BLANK": 1, "DUPLICATE": 2, "NOT_AN_IMAGE": 2, "TRUNCATED": 1}
    assert info.images == 11
    assert open_dataset(out).indices("train").dtype == np.int64


def test_table_by_digest_and_as_parquet(mixed, take_in, tmp_path):
    import pyarrow as pa

    rows = [
        {"source_sha256": sha256((mixed.folder / row["image"]).read_bytes()), "grade": int(row["grade"]), "patient": row["patient"]}
        for row in mixed.rows
        if row["grade"]
    ]  # fmt: skip
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    info, _ = take_in(mixed.folder, path)
    assert info.images == 8
    assert info.refused["NOT_AN_IMAGE"] == 2


def test_splits_given_by_the_table(mixed, take_in, tmp_path):
    for row in mixed.rows:
        row["split"] = "test" if row["patient"] == "P0" else "train" if row["patient"] else ""
    write_labels(mixed.labels, mixed.rows)
    _, out = take_in(mixed.folder, mixed.labels)
    dataset = open_dataset(out)
    who = pseudonym(b"a key for tests only", "P0")
    assert set(dataset.patients()[dataset.indices("test")]) >= {who}
    assert who not in set(dataset.patients()[dataset.indices("train")])
    next(row for row in mixed.rows if row["image"] == "deep/photo0.tif")["split"] = "train"
    next(row for row in mixed.rows if row["image"] == "again.png")["split"] = "train"
    write_labels(mixed.labels, mixed.rows)
    with pytest.raises(DatasetError, match=r"labels.csv:\d+: split: .* this patient"):
        take_in(mixed.folder, mixed.labels, "b")
    assert not (tmp_path / "b").exists()


def test_no_image_left_is_an_error_and_leaves_nothing(tmp_path, take_in):
    folder = tmp_path / "junk"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    with pytest.raises(DatasetError, match="1 NOT_AN_IMAGE"):
        take_in(folder, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junk"]


def test_only_a_data_set_is_replaced(mixed, take_in, tmp_path):
    own = tmp_path / "mine"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UsageError, match="not replaced"):
            take_in(mixed.folder, mixed.labels, "mine", force=force)
    assert (own / "thesis.txt").read_text() == "years of work"
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        take_in(mixed.folder, mixed.labels, "file")


def test_out_inside_source_is_refused(mixed, contract):
    with pytest.raises(UsageError, match="inside the source"):
        ingest(mixed.folder, None, mixed.folder / "out", contract, key=b"k" * 16, progress=silent)


def test_many_shards(mixed, take_in, monkeypatch):
    import pipeline.ingest.write

    whole, one = take_in(mixed.folder, mixed.labels, "one")
    monkeypatch.setattr(pipeline.ingest.write, "_SHARD_BYTES", 3 * 16 * 16 * 3)
    info, many = take_in(mixed.folder, mixed.labels, "many")
    assert info.shards == ("pixels-000.npy", "pixels-001.npy", "pixels-002.npy")
    pick = np.array([7, 0, 3, 3, 5])
    assert (open_dataset(many).pixels(pick) == open_dataset(one).pixels(pick)).all()
    assert whole.images == info.images


def test_the_store_refuses_what_does_not_fit(mixed, take_in, tmp_path):
    _, out = take_in(mixed.folder, mixed.labels)
    with pytest.raises(DatasetError, match="no data set"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="labels: grade, referable_dr"):
        open_dataset(out).labels("age")
    with pytest.raises(DatasetError, match="no split"):
        open_dataset(out).indices("validation")

    def broken(change) -> Path:
        copy = tmp_path / "broken"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(out, copy)
        change(copy)
        return copy

    other = Contract(name="other")
    info = DatasetInfo.read_json(out / "dataset.json")
    changes = {
        "not the contract": lambda f: other.write_json(f / "contract.json"),
        "rows": lambda f: info.model_copy(update={"images": 3}).write_json(f / "dataset.json"),
        "missing or can't be read": lambda f: (f / "pixels-000.npy").unlink(),
        "outside the shards": lambda f: np.save(f / "pixels-000.npy", np.zeros((2, 16, 16, 3), np.uint8)),
        "doesn't hold": lambda f: np.save(f / "pixels-000.npy", np.zeros((8, 16, 16, 1), np.uint8)),
        "manifest is missing": lambda f: (f / "manifest.parquet").write_bytes(b"junk"),
    }  # fmt: skip
    for message, change in changes.items():
        with pytest.raises(DatasetError, match=message):
            open_dataset(broken(change))


def test_the_command_prints_a_funnel(mixed, tmp_path, capsys, monkeypatch):
    from services.cli.main import main

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HILUM_PSEUDONYM_KEY", raising=False)
    words = ["ingest", str(mixed.folder), "--labels", str(mixed.labels), "--set", "size=16"]
    assert main([*words, "--out", str(tmp_path / "out"), "--label", "grade"]) == 0
    printed = capsys.readouterr()
    assert "16  files read" in printed.out
    assert "-2  CONFLICTING_LABEL" in printed.out
    assert "grade (ordinal): 0: 2, 1: 4, 2: 1, 3: 1" in printed.out
    key = tmp_path / ".hilum/pseudonym.key"
    assert f"{key}" in printed.err
    assert key.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("HILUM_PSEUDONYM_KEY", "short")
    assert main([*words, "--out", str(tmp_path / "again")]) == 2
    assert "fewer than 16" in capsys.readouterr().err
