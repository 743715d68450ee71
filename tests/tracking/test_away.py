"""A real MLflow server dies while a run logs to it: nothing stops, nothing is lost, nothing twice."""

import json
import shutil
import socket
import time

import pytest

from data_schemas.errors import TrackingError
from pipeline.tracking import store
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.outbox import LETTERS
from pipeline.tracking.runs import resumed_run, tracked_run
from pipeline.tracking.sending import send, waiting_runs
from services.cli.main import main


def history(client, run_id, name):
    return [(one.step, one.value, one.timestamp) for one in client.get_metric_history(run_id, name)]


def waited(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def log_epoch(run, epoch):
    """Log as an epoch does; return how long that took and when it was."""
    before = time.perf_counter(), time.time()
    run.log_metrics({"train/loss": 1 / epoch, "tune/auc": 1 - 1 / epoch}, step=epoch)
    run.post()
    return time.perf_counter() - before[0], before[1]


class Story:
    """A run whose server dies, comes back, and dies again before the run's end."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.client = server.client()
        self.said, self.times = [], {}
        self.run = None

    def live(self):
        with tracked_run(
            self.server.uri, "eyes", "away", outbox=self.folder, say=self.said.append
        ) as self.run:
            self.run.log_params({"optim.rate": 0.001})
            _, self.times[1] = log_epoch(self.run, 1)
            self.run.flush()
            assert self.losses() == [1]
            self.the_server_dies()
            self.it_comes_back()
            self.server.kill()
            log_epoch(self.run, 5)
            package = self.folder / "package"
            package.mkdir()
            (package / "model.onnx").write_bytes(b"weights")
            self.run.log_files(package, "package")
            shutil.rmtree(package)

    def the_server_dies(self):
        self.server.kill()
        for epoch in (2, 3, 4):
            took, self.times[epoch] = log_epoch(self.run, epoch)
            assert took < 5
        self.run.log_text("a table", "tables/a.txt")
        self.run.flush()  # doesn't wait for a server that is away
        assert self.losses() == [1]
        assert "what is logged waits in" in self.said[0]
        self.client.set_terminated(self.run.run_id, status="FAILED")  # somebody took it for dead

    def it_comes_back(self):
        self.server.start()
        waited(lambda: self.losses() == [1, 2, 3, 4])
        self.run.flush()
        for step, _, at in history(self.client, self.run.run_id, "train/loss"):
            assert abs(at / 1000 - self.times[step]) < 2  # its own time, not that of its arrival
        assert self.found().info.status == "RUNNING"
        assert "is back" in self.said[1]

    def losses(self):
        return [step for step, *_ in history(self.client, self.run.run_id, "train/loss")]

    def found(self):
        return self.client.get_run(self.run.run_id)


def send_is_killed(folder, monkeypatch):
    """End `hilum send` after the store took a letter and before that was written down."""
    real = Delivery.__call__
    calls = []

    def dying(self, parcel):
        real(self, parcel)
        calls.append(parcel)
        if len(calls) == 2:
            raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Delivery, "__call__", dying)
        with pytest.raises(SystemExit):
            main(["send", str(folder)])


def test_the_server_dies_comes_back_and_dies_again(
    real_server, tmp_path, impatient, monkeypatch, capsys
):
    """One story, since starting a server takes seconds of processor time."""
    story = Story(real_server, tmp_path)
    with pytest.raises(TrackingError, match="waits to be sent") as unsent:
        story.live()
    ended = time.time()
    folder = tmp_path / story.run.run_id
    assert unsent.value.mend == f"hilum send {folder}"
    assert waiting_runs(tmp_path) == [folder]
    assert story.found().info.status == "RUNNING"  # nobody could tell it

    # the one command: while the server is still away, then killed, then whole, then again
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["send", str(folder)]) == 1
    assert "mlflow server --workers 1 --host 127.0.0.1" in capsys.readouterr().err
    real_server.start()
    send_is_killed(folder, monkeypatch)
    assert story.found().info.status == "RUNNING"
    assert main(["send", str(folder), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["sent"]
    assert (told["run_id"], told["status"]) == (story.run.run_id, "FINISHED")
    assert not folder.exists()
    assert main(["send", str(folder)]) == 0
    assert "nothing waits" in capsys.readouterr().out

    found = story.found()
    assert found.info.status == "FINISHED"
    assert "hilum.last_failure" not in found.data.tags
    assert abs(found.info.end_time / 1000 - ended) < 5  # when it ended, not when this was heard
    assert story.losses() == [1, 2, 3, 4, 5]
    gauge = history(story.client, story.run.run_id, "system/cpu_utilization_percentage")
    assert [step for step, *_ in gauge] == sorted({step for step, *_ in gauge})
    over_http = store.open_client(real_server.uri)
    names = {entry.path for entry in over_http.list_artifacts(story.run.run_id, "package")}
    assert names == {"package/model.onnx"}


def test_what_waited_is_sent_before_a_run_goes_on(real_server, tmp_path, impatient):
    client = real_server.client()
    real_server.start()

    def train():
        with tracked_run(real_server.uri, "eyes", "again", outbox=tmp_path) as run:
            log_epoch(run, 1)
            run.flush()
            real_server.kill()
            log_epoch(run, 2)
            ids.append(run.run_id)
            raise KeyboardInterrupt

    ids, said = [], []
    with pytest.raises(KeyboardInterrupt):
        train()
    # without the server it can't even begin: said at once
    began = time.perf_counter()
    with pytest.raises(TrackingError, match="no MLflow server"):
        store.knock(real_server.uri)
    assert time.perf_counter() - began < 30
    real_server.start()
    with resumed_run(real_server.uri, ids[0], outbox=tmp_path, say=said.append) as run:
        assert "letters that had waited were sent" in said[0]
        for epoch in (1, 2, 3):
            log_epoch(run, epoch)
    assert [step for step, *_ in history(client, ids[0], "train/loss")] == [1, 2, 3]
    assert client.get_run(ids[0]).info.status == "FINISHED"
    assert list(tmp_path.iterdir()) == []


def test_without_an_outbox_a_server_that_is_away_is_an_error(real_server):
    def work():
        with tracked_run(real_server.uri, "eyes", "strict") as run:
            real_server.kill()
            log_epoch(run, 1)
            run.flush()

    real_server.start()
    with pytest.raises(TrackingError, match="doesn't answer"):
        work()


def test_a_name_that_the_servers_host_check_refuses_is_explained(real_server, monkeypatch):
    real_server.start()
    real = socket.getaddrinfo

    def resolved(host, *words, **more):
        return real("127.0.0.1" if host == "mlflow.example" else host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(TrackingError, match="host check") as refused:
        store.open_client(f"http://mlflow.example:{real_server.port}")
    assert refused.value.mend == f"start it with --allowed-hosts mlflow.example:{real_server.port}"


@pytest.fixture
def mute():
    """A server that takes connections, into its queue, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_never_answers_is_given_up_soon(mute, monkeypatch):
    monkeypatch.setattr(store, "KNOCK_S", 0.5)
    began = time.perf_counter()
    with pytest.raises(TrackingError, match="no MLflow server answers"):
        store.open_client(mute)
    assert time.perf_counter() - began < 30


def test_what_the_store_refuses_for_good_is_kept_and_told(mlflow_uri, tmp_path):
    ids = []

    def work():
        with tracked_run(mlflow_uri, "eyes", "twice", outbox=tmp_path / "state") as run:
            ids.append(run.run_id)
            run.log_params({"optim.rate": 1})
            run.flush()
            run.log_params({"optim.rate": 2})
            run.log_metrics({"train/loss": 1.0}, step=1)
            run.flush()

    with pytest.raises(TrackingError, match=r"[Cc]hang"):
        work()
    found = store.open_client(mlflow_uri).get_run(ids[0])
    assert found.info.status == "FAILED"
    assert found.data.metrics["train/loss"] == 1.0
    assert found.data.params["optim.rate"] == "1"
    refused = tmp_path / "state" / ids[0] / "outbox" / "refused.jsonl"
    assert '"optim.rate": "2"' in refused.read_text()


def test_letters_never_go_to_a_store_without_their_run(mlflow_uri, tmp_path, impatient):
    box = tmp_path / "state" / ("0" * 32) / "outbox"
    box.mkdir(parents=True)
    (box / "run.json").write_text(json.dumps({"uri": mlflow_uri, "run_id": "0" * 32}))
    (box / LETTERS).write_text('{"number":1,"kind":"tags","body":{"rows":{"a":"b"}}}\n')
    with pytest.raises(TrackingError, match="not found"):
        send(box.parent)
    assert (box / LETTERS).read_text().count("\n") == 1
