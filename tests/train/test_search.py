"""`hilum search`: trials below one run, chosen on the tune split, and a killed search that goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas import settings
from data_schemas.plan import Augmentation, Learning, Plan
from pipeline.tracking import store
from pipeline.tracking.children import child_runs
from pipeline.train import search_pages
from pipeline.train.search_space import (
    SPACE,
    STRENGTH,
    Trial,
    changed,
    own_values,
    space_table,
    with_settings,
)
from services.cli.main import main

ROOT = Path(__file__).parents[2]
pytest.importorskip("optuna")
FAST = [
    "network.backbone=convnet",
    "network.dropout=0.1",
    "network.stride=8",
    "learning.rate=3e-3",
    "learning.epochs=2",
    "learning.batch=16",
    "learning.average=0.9",
    "learning.weight_decay=0.05",
    "augmentation.tint=0.1",
    "threads=1",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, drawn_dataset):
    """A drawn set whose task is hard enough for trials to differ."""
    return drawn_dataset(tmp_path_factory.mktemp("data"), (64, 60, 10), noise=200, bright=8)


def words(dataset, trials, *more):
    sets = [word for setting in FAST for word in ("--set", setting)]
    return ["search", str(dataset), "--config", os.devnull, *sets, "--trials", str(trials), *more]


def test_three_trials_below_one_run_and_the_plan_of_the_best(
    dataset, mlflow_uri, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    out = tmp_path / "best.yaml"
    assert main(words(dataset, 3, "--out", str(out), "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    client = store.open_client(mlflow_uri)
    parent = client.get_run(answer["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hilum.stage"] == "search"
    below = child_runs(mlflow_uri, answer["run_id"])
    assert [child.status for child in below] == ["FINISHED"] * 3
    trials = answer["trials"]
    assert trials[0]["settings"] == {}  # the first one is the plan itself
    assert len({one["tune_auc"] for one in trials}) > 1
    best = trials[answer["best"] - 1]
    assert best["tune_auc"] == max(one["tune_auc"] for one in trials)
    # the file is a plan: the one it started from, with the best trial's changes and reasons
    plan = settings.resolve(Plan, [settings.from_file(out)])
    assert plan.digest() == answer["plan_sha256"]
    text = out.read_text()
    assert text.count(f"# trial {answer['best']} of 3: tune AUC") == len(best["settings"]) + 1
    for child in below:
        number = int(child.tags["hilum.trial"])
        assert child.metrics["best/auc"] == trials[number - 1]["tune_auc"]
        assert not any(name.startswith(("test/", "calibration/")) for name in child.metrics)
    kept = {entry.path for entry in client.list_artifacts(answer["run_id"], "search")}
    assert kept == {"search/plan.yaml", "search/trials.csv", "search/space.md"}
    assert not list((tmp_path / "store/.hilum/state/search").iterdir())


def test_a_killed_search_asks_what_an_unbroken_one_asks(
    dataset, mlflow_uri, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert main(words(dataset, 3, "--out", str(tmp_path / "whole.yaml"), "--json")) == 0
    whole = json.loads(capsys.readouterr().out)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "killed.yaml"
    command = [sys.executable, "-m", "services.cli.main", *words(dataset, 3, "--out", str(out))]
    said = tmp_path / "said.txt"
    with said.open("w") as stream:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=stream, stderr=stream)
        while "trial 1: complete" not in said.read_text():
            assert process.poll() is None, said.read_text()[-3000:]
            time.sleep(0.005)
        time.sleep(0.2)  # somewhere in trial 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    assert main(words(dataset, 3, "--out", str(out), "--json")) == 0
    went_on = json.loads(capsys.readouterr().out)
    assert went_on["run_id"] != whole["run_id"]
    parent = store.open_client(mlflow_uri).get_run(went_on["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hilum.resumed"] == "1"

    def whole_trials(answer):
        return [
            (t["settings"], t["tune_auc"]) for t in answer["trials"] if t["state"] == "complete"
        ]

    assert whole_trials(went_on) == whole_trials(whole)
    assert [one["trial"] for one in went_on["trials"]] == [1, 2, 3]
    assert went_on["trials"][0]["settings"] == {}


def test_wrong_wishes_are_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "nowhere"]) == 2
    assert "no such data set folder" in capsys.readouterr().err
    assert main(["search", "nowhere", "--trials", "0"]) == 2
    assert "a search needs a trial" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


PLAN = Plan(
    learning=Learning(average=0.9),
    augmentation=Augmentation(rotation_deg=180.0, zoom=0.5, tint=0.1),
)


def points():
    parts = {}
    for one in SPACE:
        whole = (
            st.sampled_from(one.choices) if one.kind == "choice" else st.floats(one.low, one.high)
        )
        parts[one.key] = whole
    return st.fixed_dictionaries(parts)


@given(values=points())
def test_every_point_of_the_space_is_a_plan(values):
    plan = with_settings(PLAN, changed(PLAN, values))
    assert plan.augmentation.rotation_deg <= 180
    assert plan.augmentation.flip_horizontal == PLAN.augmentation.flip_horizontal
    strength = values[STRENGTH]
    assert plan.augmentation.tint == pytest.approx(min(0.1 * strength, 0.9), rel=1e-2, abs=1e-9)
    assert plan.network.backbone == PLAN.network.backbone


def test_the_plan_itself_is_a_point_that_changes_nothing():
    assert changed(PLAN, own_values(PLAN)) == {}
    outside = with_settings(PLAN, {"network.dropout": 0.9})
    assert own_values(outside) is None


def test_reasons_stand_where_something_changed():
    best = Trial(7, "complete", 0.93, {"learning.rate": 2e-3}, {}, 1.0)
    own = Trial(1, "complete", 0.91, {}, {}, 1.0)
    found = with_settings(PLAN, best.settings)
    text = search_pages.plan_text(found, PLAN, best, [own, best])
    assert "trial 7 of 2: tune AUC 0.9300; the plan itself 0.9100." in text
    (line,) = [line for line in text.splitlines() if "; was 0.001" in line]
    assert line.startswith("  rate: 0.002")
    assert settings.resolve(Plan, [settings.from_text(text, "x")]) == found


def test_the_figure_says_when_there_is_too_little_to_say():
    trials = [Trial(1, "complete", 0.9, {}, {}, 1.0), Trial(2, "failed", float("nan"), {}, {}, 1.0)]
    drawn = search_pages.figure(trials, {})
    assert "too few whole trials" in drawn.axes[1].texts[0].get_text()
    assert search_pages.figure(trials, {"learning.rate": 0.7}).axes[1].patches[0].get_width() == 0.7


def test_the_page_shows_the_space_that_is_searched():
    assert space_table() in (ROOT / "docs/cross-validation.md").read_text(encoding="utf-8")
