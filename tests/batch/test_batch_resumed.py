"""A batch that was stopped goes on where it was: no row lost, none doubled, no file scored twice.

SIGKILL comes at random moments; the normal suite runs a short form, ``make test-score-kill`` the long one.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_schemas.errors import UsageError
from pipeline.batch import score as batch
from pipeline.batch.named import Named, named_files
from pipeline.batch.parts import JOURNAL
from pipeline.batch.score import Options, score_sources
from pipeline.ingest.folder import part_of
from tests.batch import bad_tasks
from tests.batch.drawn_files import draw_folder, picture

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("HILUM_SCORE_KILLS", "3"))
FILES = int(os.environ.get("HILUM_SCORE_KILL_FILES", "120"))
ONE = Options(workers=1)


class StoppedError(Exception):
    """The caller went away."""


def stop_at(count):
    def progress(done, _, note):
        if note == "scoring" and done == count:
            raise StoppedError

    return progress


def test_what_has_its_row_is_not_scored_again(binary_package, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "score_file", bad_tasks.score_counted)
    log = binary_package.folder.with_name("scored")
    draw_folder(tmp_path / "in", 40)
    out, whole = tmp_path / "scores.parquet", tmp_path / "whole.parquet"
    with pytest.raises(StoppedError):
        score_sources(binary_package, [str(tmp_path / "in")], out, ONE, stop_at(15))
    assert not out.exists()
    log.unlink()
    said = []
    resumed = replace(ONE, say=said.append)
    score_sources(binary_package, [str(tmp_path / "in")], out, resumed)
    assert len(log.read_text().splitlines()) == 25
    assert said == ["15 files have their row from an earlier run"]
    score_sources(binary_package, [str(tmp_path / "in")], whole, ONE)
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_changed_file_and_another_model_are_scored_anew(binary_package, grades_package, tmp_path):
    draw_folder(tmp_path / "in", 20)
    out = tmp_path / "scores.parquet"
    source = [str(tmp_path / "in")]
    with pytest.raises(StoppedError):
        score_sources(binary_package, source, out, ONE, stop_at(10))
    changed = tmp_path / "in/0/00000.png"
    changed.write_bytes(picture(77))
    score_sources(binary_package, source, out, ONE)
    [row] = [row for row in pq.read_table(out).to_pylist() if row["file"] == str(changed)]
    score_sources(binary_package, [str(changed)], tmp_path / "alone.parquet", ONE)
    [alone] = pq.read_table(tmp_path / "alone.parquet").to_pylist()
    assert row == alone
    with pytest.raises(StoppedError):
        score_sources(binary_package, source, out, ONE, stop_at(10))
    said = []
    score_sources(grades_package, source, out, replace(ONE, say=said.append))
    assert said == [
        "an unfinished batch used another model, runtime or version of hilum: started anew"
    ]
    assert set(pq.read_table(out)["package_sha256"].to_pylist()) == {grades_package.sha256}


def test_files_without_a_state_are_known_by_their_bytes(binary_package, tmp_path, monkeypatch):
    """As DICOMweb's: nothing but the bytes says whether an instance is still the same."""

    def stateless(*given):
        found = named_files(*given)
        return Named(tuple(replace(file, state="", size=-1) for file in found.files))

    monkeypatch.setattr(batch, "named_files", stateless)
    draw_folder(tmp_path / "in", 20)
    out, whole = tmp_path / "scores.parquet", tmp_path / "whole.parquet"
    source = [str(tmp_path / "in")]
    with pytest.raises(StoppedError):
        score_sources(binary_package, source, out, ONE, stop_at(12))
    changed = tmp_path / "in/0/00000.png"
    changed.write_bytes(picture(77))
    score_sources(binary_package, source, out, ONE)
    score_sources(binary_package, source, whole, ONE)
    assert out.read_bytes() == whole.read_bytes()


def test_a_torn_line_costs_its_own_file_only(binary_package, tmp_path):
    draw_folder(tmp_path / "in", 20)
    out, whole = tmp_path / "scores.parquet", tmp_path / "whole.parquet"
    source = [str(tmp_path / "in")]
    with pytest.raises(StoppedError):
        score_sources(binary_package, source, out, ONE, stop_at(12))
    journal = tmp_path / ".scores.parquet.part" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-30])
    said = []
    score_sources(binary_package, source, out, replace(ONE, say=said.append))
    assert said == ["11 files have their row from an earlier run"]
    score_sources(binary_package, source, whole, ONE)
    assert out.read_bytes() == whole.read_bytes()


def test_two_commands_do_not_write_one_table(binary_package, tmp_path):
    draw_folder(tmp_path / "in", 2)
    out = tmp_path / "scores.parquet"
    with part_of(out), pytest.raises(UsageError, match="another process"):
        score_sources(binary_package, [str(tmp_path / "in")], out, ONE)


def start(package: Path, source: Path, out: Path) -> "subprocess.Popen[str]":
    words = ["score", str(source), "--model", str(package), "--out", str(out), "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli.main", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def done(out: Path) -> int:
    """Return how many rows the journal of an unfinished batch holds."""
    try:
        return (out.parent / f".{out.name}.part" / JOURNAL).read_bytes().count(b"\n") - 1
    except OSError:
        return 0


def living(group: int) -> list[int]:
    """Return the processes of a session that are still there and no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bytes(binary_package, tmp_path):
    source = tmp_path / "in"
    draw_folder(source, FILES)
    whole = start(binary_package.folder, source, tmp_path / "whole.parquet")
    _, told = whole.communicate(timeout=1200)
    assert whole.returncode == 0, told
    expected = (tmp_path / "whole.parquet").read_bytes()
    files = pq.read_table(tmp_path / "whole.parquet")["file"].to_pylist()
    assert len(files) == len(set(files)) == FILES
    chance = random.Random(FILES)  # noqa: S311
    out = tmp_path / "scores.parquet"
    between = 0
    for kill in range(KILLS):
        process = start(binary_package.folder, source, out)
        # it goes on meanwhile: what is done may be past the share that this kill was meant for
        at = done(out)
        moment = chance.randint(at, max(at, FILES * (kill + 1) // (KILLS + 1)))
        while done(out) < moment and process.poll() is None:
            time.sleep(0.002)
        with suppress(ProcessLookupError):  # its parent alone, or all its processes at once
            (os.kill if kill % 2 else os.killpg)(process.pid, signal.SIGKILL)
        process.communicate()
        deadline = time.monotonic() + 60
        while living(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not living(process.pid), "workers outlived their parent"
        assert process.returncode == -signal.SIGKILL, "it ended before its moment"
        assert not out.exists()
        between += 0 < done(out) < FILES
        print(f"\nkill {kill + 1}/{KILLS}: {done(out)} of {FILES} rows were there")  # noqa: T201
    process = start(binary_package.folder, source, out)
    _, told = process.communicate(timeout=1200)
    assert process.returncode == 0, told
    assert out.read_bytes() == expected
    assert between, "every kill came before the first row or after the last: none was tested"
