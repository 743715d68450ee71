"""A data set grows: unchanged, added, changed, removed and relabelled files; nothing is decoded twice."""

import fcntl
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipeline.ingest.ingest
from data_schemas.contract import Contract
from data_schemas.dataset import Changes
from data_schemas.errors import DatasetError, UsageError
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.journal import Header, Journal, begin, entries_of, header_of
from pipeline.ingest.store import open_dataset
from pipeline.ingest.taking import Image as Prepared
from tests.ingest.conftest import KEY, drawn, write_labels

ROOT = Path(__file__).parents[2]


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of files whose pixels were decoded, as they are."""
    found: list[str] = []
    stream = pipeline.ingest.ingest._stream

    def watched(*words, **more):
        for file, said in stream(*words, **more):
            if isinstance(said, Prepared):
                found.append(file.place)
            yield file, said

    monkeypatch.setattr(pipeline.ingest.ingest, "_stream", watched)
    return found


def test_unchanged_says_so_and_touches_nothing(mixed, take_in, decoded):
    said: list[str] = []
    first, out = take_in(mixed.folder, mixed.labels)
    before = {
        path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "journal"
    }
    decoded.clear()
    second, _ = take_in(mixed.folder, mixed.labels, say=said.append)
    assert second == first
    assert second.version == 1
    assert decoded == []
    assert any("nothing has changed" in remark for remark in said)
    assert before == {
        path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "journal"
    }
    for path in mixed.folder.rglob("*.png"):  # newer, with the same bytes: read again, not decoded
        path.write_bytes(path.read_bytes())
    assert take_in(mixed.folder, mixed.labels)[0] == first
    assert decoded == []


def test_a_new_version_equals_a_fresh_data_set(mixed, take_in, decoded):
    first, out = take_in(mixed.folder, mixed.labels)
    Image.fromarray(drawn(50)).save(mixed.folder / "new.png")  # added
    Image.fromarray(drawn(51)).save(mixed.folder / "deep/photo1.png")  # changed
    (mixed.folder / "deep/photo2.tif").unlink()  # removed
    (mixed.folder / "deep/photo3.png").rename(mixed.folder / "deep/moved.png")
    rows = [row for row in mixed.rows if row["image"] != "deep/photo2.tif"]
    for row in rows:
        if row["image"] == "deep/photo3.png":
            row["image"] = "deep/moved.png"
        if row["image"] == "deep/photo5.png":  # relabelled
            row["grade"] = "3"
    rows.append(
        {"image": "new.png", "patient": "P77", "grade": "2", "Referable DR": "1", "note": ""}
    )
    write_labels(mixed.labels, rows)
    decoded.clear()
    second, _ = take_in(mixed.folder, mixed.labels)
    assert sorted(decoded) == ["deep/photo1.png", "new.png"]
    assert second.version == 2
    assert second.previous_sha256 == first.content_sha256
    assert second.changes == Changes(added=2, removed=2, relabelled=1)
    fresh, other = take_in(mixed.folder, mixed.labels, "fresh", name="source")
    assert second.content_sha256 == fresh.content_sha256
    assert second.refused == fresh.refused
    for name in ("pixels-000.npy", "manifest.parquet", "refusals.parquet"):
        assert (out / name).read_bytes() == (other / name).read_bytes()
    assert open_dataset(out).info.version == 2


def test_an_image_that_gets_its_label_later(mixed, take_in, decoded):
    (mixed.folder / "twin.png").write_bytes((mixed.folder / "unnamed.png").read_bytes())
    first, out = take_in(mixed.folder, mixed.labels)
    assert first.refused["NO_LABEL"] == 3
    row = {"image": "unnamed.png", "patient": "P5", "grade": "1", "Referable DR": "0", "note": ""}
    write_labels(mixed.labels, [*mixed.rows, row])
    decoded.clear()
    second, _ = take_in(mixed.folder, mixed.labels)
    assert decoded == ["unnamed.png"]
    assert second.changes == Changes(added=1)
    fresh, other = take_in(mixed.folder, mixed.labels, "fresh", name="source")
    assert second.content_sha256 == fresh.content_sha256
    assert (out / "refusals.parquet").read_bytes() == (other / "refusals.parquet").read_bytes()


def test_the_third_version_takes_over_from_the_second(mixed, take_in, decoded):
    take_in(mixed.folder, None)
    for number in (2, 3):
        Image.fromarray(drawn(60 + number)).save(mixed.folder / f"new{number}.png")
        decoded.clear()
        info, _ = take_in(mixed.folder, None)
        assert decoded == [f"new{number}.png"]
        assert info.version == number
        assert info.changes == Changes(added=1)


def test_another_contract_or_key_or_source_is_told(mixed, take_in, tmp_path, contract):
    first, out = take_in(mixed.folder, mixed.labels)

    def again(source, contract=contract, key=KEY, **options):
        return ingest(
            source, None, out, contract, key=key, progress=silent, options=Options(**options)
        )

    with pytest.raises(UsageError, match="contract `tiny`"):
        again(mixed.folder, Contract(name="other"))
    with pytest.raises(UsageError, match="another key"):
        again(mixed.folder, key=b"another key of the tests")
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(drawn(99)).save(other / "x.png")
    with pytest.raises(UsageError, match="another source"):
        again(other)
    assert open_dataset(out).info == first
    forced = again(other, force=True)
    assert forced.version == 1
    assert open_dataset(out).info.images == 1


def test_after_wrong_labels_nothing_is_decoded_twice(mixed, take_in, decoded, tmp_path):
    for row in mixed.rows:
        row["split"] = "train" if row["image"] != "deep/photo1.png" else "test"
    write_labels(mixed.labels, mixed.rows)
    with pytest.raises(DatasetError, match="split"):
        take_in(mixed.folder, mixed.labels)
    assert len(decoded) == 13
    decoded.clear()
    for row in mixed.rows:
        row["split"] = "train"
    write_labels(mixed.labels, mixed.rows)
    take_in(mixed.folder, mixed.labels)
    assert decoded == []
    assert not list(tmp_path.glob(".dataset.part"))


def test_two_at_once_are_refused(mixed, take_in, tmp_path):
    part = tmp_path / ".dataset.part"
    part.mkdir()
    with (part / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            take_in(mixed.folder, mixed.labels)
    take_in(mixed.folder, mixed.labels)


def test_a_full_disk_is_told_and_gone_on_from(mixed, tmp_path):
    out = tmp_path / "out"
    words = ["ingest", str(mixed.folder), "--out", str(out), "--set", "size=64", "--workers", "1"]
    environment = os.environ | {"HILUM_PSEUDONYM_KEY": "0123456789abcdef", "PYTHONPATH": str(ROOT)}

    def run(limit: int) -> "subprocess.CompletedProcess[str]":
        # a file may not grow beyond the limit: to the writer that is a full disk
        return subprocess.run(
            [sys.executable, "-m", "services.cli.main", *words],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip

    full = run(60_000)
    assert full.returncode == 1
    assert "the disk is full" in full.stderr
    assert "goes on where it stopped" in full.stderr
    assert not out.exists()
    assert len(list(entries_of(tmp_path / ".out.part/journal"))) >= 3
    assert run(resource.RLIM_INFINITY).returncode == 0
    assert open_dataset(out).info.images == 11


def test_pixels_that_changed_on_the_disk_are_taken_again(
    mixed, take_in, decoded, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.ingest.ingest, "build", stop)
        with pytest.raises(KeyboardInterrupt):
            take_in(mixed.folder, None)
    spool = tmp_path / ".dataset.part/pixels-00000.spool"
    pixels = bytearray(spool.read_bytes())
    pixels[5 * 16 * 16 * 3 + 7] ^= 1
    spool.write_bytes(pixels)
    decoded.clear()
    info, out = take_in(mixed.folder, None)
    assert len(decoded) == 1
    fresh, _ = take_in(mixed.folder, None, "fresh", name="source")
    assert info.content_sha256 == fresh.content_sha256
    shard = out / "pixels-000.npy"
    pixels = bytearray(shard.read_bytes())
    pixels[-1] ^= 1
    shard.write_bytes(pixels)
    Image.fromarray(drawn(70)).save(mixed.folder / "new.png")
    with pytest.raises(DatasetError, match="changed on disk"):
        take_in(mixed.folder, None)


def test_a_torn_journal_is_cut_at_every_byte(mixed, take_in, tmp_path):
    _, out = take_in(mixed.folder, None)
    whole = (out / "journal").read_bytes()
    header = header_of(out / "journal")
    assert isinstance(header, Header)
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "torn"
    for cut in range(len(lines[0]), len(lines[0]) + len(lines[1]) + len(lines[2]) + 1):
        path.write_bytes(whole[:cut] + b"\x00 torn")
        with Journal(path) as journal:
            sound = [entry for _, entry in journal.entries()]
        assert len(sound) == (cut >= len(lines[0] + lines[1])) + (cut >= len(b"".join(lines[:3])))
        assert path.read_bytes() == b"".join(lines[: len(sound) + 1])
    begin(path, header)
    with Journal(path) as journal:
        for _, entry in entries_of(out / "journal"):
            assert journal.at(journal.append(entry)) == entry
    assert path.read_bytes() == whole


def test_refused_pictures_can_be_seen_and_nothing_identifying_is_kept(mixed, take_in):
    _, out = take_in(mixed.folder, mixed.labels)
    rows = pq.read_table(out / "refusals.parquet").to_pylist()
    pictures = {row["code"]: row["thumbnail"] for row in rows}
    for code in ("DUPLICATE", "CONFLICTING_LABEL", "NO_LABEL"):
        assert pictures[code].startswith(b"\xff\xd8")
    assert pictures["NOT_AN_IMAGE"] is None
    written = (out / "journal").read_bytes()
    for secret in (b"MRN-", b"Doe", b"photo", b".png", b"1.2.3", KEY):
        assert secret not in written
    assert json.loads((out / "dataset.json").read_text())["files_read"] == 16


def test_missing_labels_read_as_minus_one(mixed, take_in):
    for row in mixed.rows:
        if row["image"] == "deep/photo1.png":
            row["Referable DR"] = ""
    write_labels(mixed.labels, mixed.rows)
    info, out = take_in(mixed.folder, mixed.labels)
    assert info.images == 8
    missing = {label.name: label.missing for label in info.labels}
    assert missing == {"grade": 0, "referable_dr": 1}
    values = open_dataset(out).labels("referable_dr")
    assert sorted(np.unique(values)) == [-1, 0, 1]
