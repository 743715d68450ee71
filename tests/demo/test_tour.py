"""The tour's manners: whose folder it may replace, how a failing step ends, children that end."""

import subprocess
import sys
import time

import numpy as np
import pytest

from data_schemas.errors import UsageError
from pipeline.demo.pointing import _shown
from pipeline.demo.steps import StepFailedError, Walk, end
from pipeline.demo.tour import MARKER, claim


def walk(said, **environment):
    import os

    return Walk(said.append, {**os.environ, **environment}, total=2)


def test_a_new_or_empty_folder_is_claimed(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert (claim(tmp_path / name) / MARKER).is_file()


def test_an_earlier_demo_is_replaced(tmp_path):
    out = claim(tmp_path / "out")
    (out / "old.txt").write_text("old")
    claim(out)
    assert [path.name for path in out.iterdir()] == [MARKER]


def test_anything_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="nothing was touched"):
        claim(tmp_path)
    with pytest.raises(UsageError):
        claim(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_step_shows_its_command_and_its_output():
    said = []
    printed = walk(said).hilum("--version")
    assert printed.startswith("hilum ")
    assert "    $ hilum --version" in said


def test_a_failing_step_stops_with_its_code():
    said = []
    with pytest.raises(StepFailedError) as failed:
        walk(said).hilum("ingest", "no-such-folder", "--out", "nowhere")
    assert failed.value.code in (1, 2)
    assert "ended with code" in said[-1]


def test_a_service_that_can_not_start_stops_the_tour(tmp_path):
    with (
        pytest.raises(StepFailedError),
        walk([]).serving(str(tmp_path / "no-package"), "--port", "0"),
    ):
        pytest.fail("nothing serves here")


def test_children_end_even_if_they_would_rather_not():
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "1\n"
    started = time.monotonic()
    end(child, patience_s=0.3)
    assert child.poll() is not None
    assert time.monotonic() - started < 30


def test_steps_are_counted_and_timed():
    said = []
    tour = walk(said)
    with tour.step("One thing."):
        pass
    assert said[0] == "\n[1/2] One thing."
    assert "took" in said[1]


def test_a_mask_follows_its_region_and_keeps_small_things():
    mask = np.zeros((100, 160), dtype=bool)
    mask[50:53, 80:83] = True
    # a square that reaches 30 rows above and below the source
    shown = _shown(mask, (-30, 0, 160, 160), 80)
    rows, columns = np.nonzero(shown)
    assert rows.min() >= 39
    assert rows.max() <= 42
    assert columns.min() >= 39
    assert columns.max() <= 42
    assert not _shown(np.zeros_like(mask), (-30, 0, 160, 160), 80).any()
