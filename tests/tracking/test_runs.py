"""Runs say what happened: values, inputs, system figures, and how they ended."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.dataset import DatasetInfo, Label
from data_schemas.errors import DatasetError, TrackingError
from pipeline.tracking import endings, finding, store
from pipeline.tracking.finding import stopped_run
from pipeline.tracking.runs import (
    METRIC_NAME,
    continued_run,
    resumed_run,
    tracked_run,
)

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")


def info():
    label = Label(name="referable", kind="binary", classes=("no", "yes"), counts=(7, 3))
    return DatasetInfo(
        name="eyes",
        hilum_version="0",
        contract_name="fundus",
        contract_sha256="c" * 64,
        size=32,
        channels=3,
        images=10,
        patients=5,
        files_read=12,
        refused={"BLANK": 2},
        splits={"train": 6, "tune": 4},
        labels=(label,),
        shards=(),
        content_sha256="ab" * 32,
    )


def found(uri, run_id):
    return store.open_client(uri).get_run(run_id)


def artifacts(uri, run_id, folder=None):
    return {entry.path for entry in store.open_client(uri).list_artifacts(run_id, folder)}


def test_a_finished_run_holds_everything(mlflow_uri, tmp_path):
    with tracked_run(mlflow_uri, "eyes", "first", {"hilum.stage": "train"}) as run:
        run.log_params({f"a.{number}": number for number in range(150)})
        for epoch in (1, 2):
            run.log_metrics({"train/loss": 1 / epoch, "tune/auc": math.nan}, step=epoch)
        run.log_dataset(info(), "train", 6)
        run.log_dataset(info(), "tune", 4)
        run.set_note("# what it is")
        run.log_json({"b": 1}, "config/plan.json")
    kept = found(mlflow_uri, run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "first"
    assert len(kept.data.params) == 150
    assert kept.data.metrics["train/loss"] == 0.5
    assert "tune/auc" not in kept.data.metrics
    assert kept.data.metrics["run/undefined"] == 2
    assert sum(name.startswith("system/") for name in kept.data.metrics) >= 5
    assert kept.data.tags["mlflow.note.content"] == "# what it is"
    assert kept.data.tags["hilum.stage"] == "train"
    inputs = {
        (one.dataset.name, one.dataset.digest, one.tags[0].value)
        for one in kept.inputs.dataset_inputs
    }
    assert inputs == {("eyes-train", "ab" * 16, "train"), ("eyes-tune", "ab" * 16, "tune")}
    experiment = store.open_client(mlflow_uri).get_experiment_by_name("eyes")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    lies = finding.download(mlflow_uri, run.run_id, "config/plan.json", tmp_path / "got")
    assert lies.read_text() == '{\n  "b": 1\n}\n'
    # everything lies beside the database, nothing in the current folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got", "store"]


def test_metrics_are_one_request_per_flush(mlflow_uri, monkeypatch):
    with tracked_run(mlflow_uri, "eyes", "batched") as run:
        calls = []
        run.set_tags({"hilum.stage": "train"})
        run.flush()
        client = run._sender._delivery._client
        real = client.log_batch
        monkeypatch.setattr(client, "log_batch", lambda *a, **k: (calls.append(k), real(*a, **k)))
        run.log_metrics({f"train/m{number}": 1.0 for number in range(40)}, step=1)
        assert calls == []
        run.flush()
        assert len(calls) == 1
        assert len(calls[0]["metrics"]) == 40


def test_a_step_left_out_continues_after_the_last_one(mlflow_uri):
    with tracked_run(mlflow_uri, "eyes", "a") as run:
        run.log_metrics({"test/auc": 0.5}, step=4)
    with continued_run(mlflow_uri, run.run_id) as again:
        again.log_metrics({"test/auc": 0.6, "test/new": 1.0})
        again.log_metrics({"test/auc": 0.7})
    history = store.open_client(mlflow_uri).get_metric_history(run.run_id, "test/auc")
    assert [(entry.step, entry.value) for entry in history] == [(4, 0.5), (5, 0.6), (6, 0.7)]
    assert found(mlflow_uri, run.run_id).data.metrics["test/new"] == 1.0
    assert found(mlflow_uri, run.run_id).info.status == "FINISHED"


def test_an_exception_fails_the_run_and_leaves_a_traceback_without_data(mlflow_uri, tmp_path):
    run_ids = []

    def look_up():
        return {}["Jane^Doe 12345"]

    def work():
        with tracked_run(mlflow_uri, "eyes", "failing") as run:
            run_ids.append(run.run_id)
            run.log_metrics({"train/loss": 3.0}, step=1)
            look_up()

    with pytest.raises(KeyError, match="Jane"):
        work()
    kept = found(mlflow_uri, run_ids[0])
    assert kept.info.status == "FAILED"
    assert kept.data.metrics["train/loss"] == 3.0
    text = finding.download(mlflow_uri, run_ids[0], "errors/traceback.txt", tmp_path).read_text()
    assert "in look_up" in text
    assert "builtins.KeyError" in text
    assert "Jane" not in text
    assert "12345" not in text
    assert str(ROOT) not in text


def test_our_own_message_stays_in_the_traceback():
    def choke():
        try:
            int("secret")
        except ValueError as error:
            raise DatasetError("no image in the train split") from error

    with pytest.raises(DatasetError) as raised:
        choke()
    text = endings.traceback_text(raised.value)
    assert "no image in the train split" in text
    assert "secret" not in text
    assert "which came from" in text


def test_leaving_by_exit_fails_the_run(mlflow_uri):
    with pytest.raises(SystemExit), tracked_run(mlflow_uri, "eyes", "exit") as run:
        sys.exit(0)
    assert found(mlflow_uri, run.run_id).info.status == "FAILED"


def test_a_failed_evaluation_does_not_undo_a_finished_training(mlflow_uri):
    with tracked_run(mlflow_uri, "eyes", "a") as run:
        pass

    def evaluate():
        with continued_run(mlflow_uri, run.run_id) as again:
            again.log_metrics({"test/auc": 0.5}, step=0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate()
    kept = found(mlflow_uri, run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.metrics["test/auc"] == 0.5
    assert kept.data.tags["hilum.last_failure"] == "ZeroDivisionError"


def killed(uri, name):
    """Log two epochs in a run, then be stopped; return the run's id."""
    run_ids = []

    def train():
        with tracked_run(uri, "eyes", name, TRAIN) as run:
            run_ids.append(run.run_id)
            run.log_metrics({"data/images": 9.0}, step=0)
            for epoch in (1, 2):
                run.log_metrics({"train/loss": 1 / epoch, "tune/auc": 0.5 * epoch}, step=epoch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    return run_ids[0]


TRAIN = {"hilum.stage": "train"}


def test_a_resumed_run_logs_nothing_twice_and_ends_as_it_ends(mlflow_uri):
    run_id = killed(mlflow_uri, "a")
    client = store.open_client(mlflow_uri)
    client.set_tag(run_id, "hilum.last_failure", "process ended without a word")
    with resumed_run(mlflow_uri, run_id, {"hilum.state": "somewhere"}) as run:
        now = found(mlflow_uri, run_id)
        assert now.info.status == "RUNNING"
        assert "hilum.last_failure" not in now.data.tags
        assert not endings.is_gone(now.data.tags["hilum.process"])
        run.log_metrics({"data/images": 9.0, "best/epoch": 3.0}, step=0)
        for epoch in (2, 3):
            run.log_metrics({"train/loss": 1 / epoch, "tune/auc": 0.4}, step=epoch)
    kept = found(mlflow_uri, run_id)
    assert kept.info.status == "FINISHED"
    assert (kept.data.tags["hilum.resumed"], kept.data.tags["hilum.state"]) == ("1", "somewhere")

    def history(name):
        entries = client.get_metric_history(run_id, name)
        return [(entry.step, entry.value) for entry in entries]

    assert history("train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert history("tune/auc") == [(1, 0.5), (2, 1.0), (3, 0.4)]
    assert history("data/images") == [(0, 9.0)]
    assert history("best/epoch") == [(0, 3.0)]
    assert [step for step, _ in history("run/undefined")] == [0, 1]
    system = [step for step, _ in history("system/cpu_utilization_percentage")]
    assert sorted(set(system)) == system


def test_a_resumed_run_may_be_stopped_again(mlflow_uri):
    run_id = killed(mlflow_uri, "a")
    with pytest.raises(KeyboardInterrupt), resumed_run(mlflow_uri, run_id):
        raise KeyboardInterrupt
    assert found(mlflow_uri, run_id).info.status == "KILLED"
    with resumed_run(mlflow_uri, run_id):
        pass
    assert found(mlflow_uri, run_id).data.tags["hilum.resumed"] == "2"
    with (
        pytest.raises(TrackingError, match="nothing to go on with"),
        resumed_run(mlflow_uri, run_id),
    ):
        pass
    assert found(mlflow_uri, run_id).info.status == "FINISHED"


def test_the_last_stopped_run_is_the_newest_that_did_not_finish(mlflow_uri):
    with pytest.raises(TrackingError, match="holds no training run"):
        stopped_run(mlflow_uri, "last", "eyes")
    killed(mlflow_uri, "older")
    newer = killed(mlflow_uri, "newer")
    with tracked_run(mlflow_uri, "eyes", "done", TRAIN) as done:
        pass
    with pytest.raises(KeyError), tracked_run(mlflow_uri, "eyes", "other", {"hilum.stage": "x"}):
        raise KeyError
    assert stopped_run(mlflow_uri, "last", "eyes")[0] == newer
    assert stopped_run(mlflow_uri, newer, "ignored")[1]["hilum.stage"] == "train"
    with pytest.raises(TrackingError, match="has finished"):
        stopped_run(mlflow_uri, done.run_id, "eyes")


def _wait_in_a_run(uri, run_ids):
    with tracked_run(uri, "eyes", "stopped") as run:
        run.log_metrics({"train/loss": 2.0}, step=1)
        run_ids.put(run.run_id)
        for _ in range(600):  # a signal that comes just before one long sleep waits for its end
            time.sleep(0.1)


@pytest.mark.own_process
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, "KILLED"), (signal.SIGINT, "KILLED"), (signal.SIGKILL, "RUNNING")],
)
def test_a_stopped_process_leaves_the_right_status(mlflow_uri, number, status):
    run_ids = FORK.Queue()
    child = FORK.Process(target=_wait_in_a_run, args=(mlflow_uri, run_ids))
    child.start()
    run_id = run_ids.get(timeout=60)
    os.kill(child.pid, number)
    child.join(60)
    kept = found(mlflow_uri, run_id)
    assert kept.info.status == status
    if status == "KILLED":
        assert kept.data.metrics["train/loss"] == 2.0
        assert child.exitcode == (143 if number == signal.SIGTERM else 1)
    else:
        # nobody could say it in time; the next run on this machine does
        with tracked_run(mlflow_uri, "eyes", "next"):
            pass
        assert found(mlflow_uri, run_id).info.status == "FAILED"


def test_a_live_run_is_not_taken_for_dead(mlflow_uri):
    with tracked_run(mlflow_uri, "eyes", "a") as first:
        with tracked_run(mlflow_uri, "eyes", "b"):
            pass
        assert found(mlflow_uri, first.run_id).info.status == "RUNNING"


@pytest.mark.slow
def test_sigterm_in_a_fresh_interpreter(mlflow_uri):
    script = (
        "import sys, time\n"
        "from pipeline.tracking.runs import tracked_run\n"
        f"with tracked_run({mlflow_uri!r}, 'eyes', 'fresh') as run:\n"
        "    print(run.run_id, flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    run_id = child.stdout.readline().strip()
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == 143
    assert found(mlflow_uri, run_id).info.status == "KILLED"


def test_handlers_are_put_back(mlflow_uri):
    before = [signal.getsignal(number) for number in endings.STOPPING]
    with tracked_run(mlflow_uri, "eyes", "a"):
        assert [signal.getsignal(number) for number in endings.STOPPING] != before
    assert [signal.getsignal(number) for number in endings.STOPPING] == before


def _first_use(uri, answers):
    try:
        with tracked_run(uri, "eyes", "race") as run:
            run.log_metrics({"train/loss": 1.0}, step=1)
        answers.put(run.run_id)
    except BaseException as error:  # noqa: BLE001 - the parent wants to know
        answers.put(repr(error))


@pytest.mark.own_process
def test_four_processes_may_use_a_fresh_store_at_once(tmp_path, migrated_store):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    answers = FORK.Queue()
    children = [FORK.Process(target=_first_use, args=(uri, answers), daemon=True) for _ in range(4)]
    for child in children:
        child.start()
    run_ids = [answers.get(timeout=120) for _ in children]
    for child in children:
        child.join(30)
    client = store.open_client(uri)
    assert [client.get_run(run_id).info.status for run_id in run_ids] == ["FINISHED"] * 4
    assert len({client.get_run(run_id).info.experiment_id for run_id in run_ids}) == 1


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "./x/mlruns", "ftp://host/x", ""])
def test_what_is_no_store_is_refused_with_a_way_out(uri):
    with pytest.raises(TrackingError) as refused:
        store.check_uri(uri)
    assert "sqlite:" in str(refused.value)


def test_a_server_that_is_not_there_is_said_soon_and_without_its_password():
    with pytest.raises(TrackingError) as refused:
        store.open_client("http://user:hunter2@127.0.0.1:9")
    assert "127.0.0.1:9" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_an_unknown_run_or_artifact_is_a_tracking_error(mlflow_uri, tmp_path):
    with pytest.raises(TrackingError), continued_run(mlflow_uri, "0" * 32):
        pass
    with tracked_run(mlflow_uri, "eyes", "a") as run:
        pass
    with pytest.raises(TrackingError, match="no artifact `package`"):
        finding.download(mlflow_uri, run.run_id, "package", tmp_path)


def test_only_a_finished_run_counts_as_one(mlflow_uri):
    with pytest.raises(ZeroDivisionError), tracked_run(mlflow_uri, "eyes", "a") as run:
        raise ZeroDivisionError
    with pytest.raises(TrackingError, match="FAILED, not FINISHED"):
        finding.finished_run(mlflow_uri, run.run_id)


def test_a_deleted_experiment_is_explained(mlflow_uri):
    with tracked_run(mlflow_uri, "gone", "a") as run:
        pass
    store.open_client(mlflow_uri).delete_experiment(run.experiment_id)
    with pytest.raises(TrackingError, match="was deleted"), tracked_run(mlflow_uri, "gone", "b"):
        pass


@pytest.mark.parametrize(
    "name", ["loss", "train/a/b", "train/auc@0.9", "Train/loss", "train/", "train//x"]
)
def test_a_metric_name_with_another_form_is_refused(mlflow_uri, name):
    with pytest.raises(TrackingError), tracked_run(mlflow_uri, "eyes", "a") as run:
        run.log_metrics({name: 1.0})


def test_values_that_mlflow_would_cut_are_refused(mlflow_uri):
    with tracked_run(mlflow_uri, "eyes", "a") as run:
        with pytest.raises(TrackingError, match="6000"):
            run.log_params({"long": "x" * 6001})
        with pytest.raises(TrackingError, match="8000"):
            run.set_note("x" * 8001)


@given(st.text(max_size=30))
def test_a_metric_name_that_passes_has_one_slash(name):
    if METRIC_NAME.fullmatch(name):
        assert name.count("/") == 1
        assert "\n" not in name


def test_telemetry_is_off():
    assert store._SWITCHES["MLFLOW_DISABLE_TELEMETRY"] == "true"
    store.import_quietly()
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
