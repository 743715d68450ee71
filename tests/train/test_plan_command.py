"""`hilum plan` and the plan that `hilum train` follows: made, edited, wrong, too large, shared."""

import json
import threading
import time

import numpy as np
import pytest

from data_schemas import settings
from data_schemas.errors import HilumError, UsageError
from data_schemas.files import write_text
from data_schemas.plan import Plan
from pipeline.tracking import store
from pipeline.train.plan import make, room
from pipeline.train.plan.write import inspect
from services.cli import planning
from services.cli.main import main
from services.cli.settings import resolve

TINY = ["network.backbone=convnet", "learning.epochs=1", "threads=1"]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """A data set folder that the real ingestion wrote."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 60), ("val", 40), ("test", 20)):
        truth = (np.arange(n) % 2).astype(np.uint8)
        images = generator.integers(0, 100, (n, 28, 28, 3)).astype(np.uint8)
        images[truth == 1, :14] += 120
        arrays |= {f"{split}_images": images, f"{split}_labels": truth[:, None]}
    np.savez(folder / "tiny.npz", **arrays)
    (folder / "key").write_text("not a secret, this is a test")
    words = ["ingest", str(folder / "tiny.npz"), "--out", str(folder / "set")]
    assert main([*words, "--key-file", str(folder / "key")]) == 0
    return folder / "set"


@pytest.fixture
def dataset(ingested, monkeypatch):
    """The folder without a plan; few seconds for trial steps."""
    for file in ("plan.yaml", "fingerprint.json"):
        (ingested / file).unlink(missing_ok=True)
    whole = make.make_plan
    monkeypatch.setattr(make, "make_plan", lambda data, asked: whole(data, asked, seconds=0.3))
    return ingested


def plan(dataset, *more):
    sets = [word for setting in TINY for word in ("--set", setting)]
    return main(["plan", str(dataset), *sets, *more])


def test_it_prints_a_table_and_writes_a_file_that_is_the_plan(dataset, capsys):
    assert plan(dataset) == 0
    printed = capsys.readouterr().out
    assert "network.backbone" in printed
    assert "given" in printed
    assert "Needs " in printed
    assert ", you have " in printed
    assert f"hilum train {dataset}" in printed
    assert plan(dataset, "--json") == 0  # its own file may be written over
    answer = json.loads(capsys.readouterr().out)
    by_key = {row["key"]: row for row in answer["decisions"]}
    assert by_key["network.backbone"]["kind"] == "given"
    assert by_key["network.weights"]["value"] == "none"
    assert answer["fits"] is True
    assert answer["needed_bytes"] > 0
    assert answer["total_seconds"] > answer["epoch_seconds"] > 0
    written = resolve(Plan, "plans", [answer["plan"]], [])
    assert written.digest() == answer["plan_sha256"]


def test_an_edited_plan_is_kept_unless_forced(dataset, tmp_path, capsys):
    assert plan(dataset) == 0
    file = dataset / "plan.yaml"
    file.write_text(file.read_text() + "# looked at by me\n")
    assert plan(dataset) == 2
    assert "--force" in capsys.readouterr().err
    assert plan(dataset, "--out", str(tmp_path / "other.yaml")) == 0
    assert (tmp_path / "other.fingerprint.json").is_file()
    assert inspect(file).edited
    assert plan(dataset, "--force") == 0
    assert not inspect(file).edited


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--set", "learning.bach=3"], 2, "did you mean `learning.batch`?"),
        (["--set", "learning.batch=many"], 2, "learning.batch"),
        (["--label", "nothing"], 1, "the data set has no label `nothing`"),
        (["--minutes", "0"], 2, "--minutes"),
        (["--set", "network.backbone=resnet999"], 1, "no backbone is called"),
        (["--out", "/proc/nowhere/plan.yaml"], 2, "can't be written"),
    ],
)
def test_what_was_asked_wrongly_is_said(dataset, words, code, told, capsys):
    assert plan(dataset, *words) == code
    assert told in capsys.readouterr().err
    assert not (dataset / "plan.yaml").exists()


def test_no_folder_no_data_set_no_label(tmp_path, dataset, capsys):
    assert main(["plan", str(tmp_path / "none")]) == 2
    assert main(["plan", str(tmp_path)]) == 1
    assert "is no data set" in capsys.readouterr().err


@pytest.mark.slow
def test_training_makes_the_plan_says_so_and_follows_it(dataset, mlflow_uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    whole = make.make_plan
    asked = []

    def tiny(data, request):
        asked.append(request)
        return whole(data, make.Request(settings.from_assignments(TINY)))

    monkeypatch.setattr(make, "make_plan", tiny)
    assert main(["train", str(dataset), "--json"]) == 0
    printed = capsys.readouterr()
    assert f"no {dataset / 'plan.yaml'}: making it" in printed.err
    assert "Needs " in printed.err
    client = store.open_client(mlflow_uri)
    run = client.get_run(json.loads(printed.out)["run_id"])
    written = resolve(Plan, "plans", [str(dataset / "plan.yaml")], [])
    assert run.data.tags["hilum.plan_sha256"] == written.digest()
    # the second time it is there, and a line that a person changed counts; so does --set, over it
    file = dataset / "plan.yaml"
    file.write_text(file.read_text().replace("batch: ", "batch: 1").replace("seed: 0", "seed: 7"))
    assert main(["train", str(dataset), "--json", "--set", "learning.rate=0.001"]) == 0
    printed = capsys.readouterr()
    assert "making it" not in printed.err
    run = client.get_run(json.loads(printed.out)["run_id"])
    assert (run.data.params["seed"], run.data.params["learning.rate"]) == ("7", "0.001")
    assert len(asked) == 1


def test_a_wrongly_edited_plan_ends_the_training_with_its_line(
    dataset, mlflow_uri, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert plan(dataset) == 0
    file = dataset / "plan.yaml"
    lines = file.read_text().splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("  epochs:"))
    lines[place] = "  epochs: a few"
    file.write_text("\n".join(lines) + "\n")
    assert main(["train", str(dataset)]) == 2
    err = capsys.readouterr().err
    assert f"{file}:{place + 1}: learning.epochs: " in err
    assert "'a few'" in err
    assert not store.open_client(mlflow_uri).search_runs(["0"])


def test_a_training_that_does_not_fit_is_refused_before_it_starts(
    dataset, mlflow_uri, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert plan(dataset) == 0
    file = dataset / "plan.yaml"
    place = next(
        k for k, line in enumerate(file.read_text().splitlines(), 1) if line.startswith("  batch:")
    )
    monkeypatch.setattr(room, "memory_for", lambda _: 2**20)
    assert main(["train", str(dataset)]) == 1
    err = capsys.readouterr().err
    assert f"{file}:{place}: learning.batch: batch " in err
    assert "needs" in err
    assert main(["train", str(dataset), "--set", "learning.batch=9"]) == 1
    assert "--set learning.batch=9: learning.batch: batch 9 needs" in capsys.readouterr().err
    assert store.open_client(mlflow_uri).get_experiment_by_name("tiny") is None


def test_a_plan_for_other_images_is_told(dataset, mlflow_uri, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    monkeypatch.setattr(room, "memory_for", lambda _: 2**20)  # it need not train
    assert plan(dataset) == 0
    file = dataset / "plan.yaml"
    digest = inspect(file).dataset
    file.write_text(file.read_text().replace(digest, digest[::-1]))
    assert main(["train", str(dataset)]) == 1
    assert "was made for other images" in capsys.readouterr().err


def test_other_processes_wait_for_the_first_ones_plan(tmp_path, monkeypatch):
    file = tmp_path / "plan.yaml"
    threading.Timer(
        0.3, lambda: write_text(file, "seed: 3\n")
    ).start()  # whole, as `hilum plan` does
    planning._wait_for(file)
    assert file.read_text() == "seed: 3\n"
    file.unlink()
    monkeypatch.setattr(planning, "PLAN_WAIT_S", 0.2)
    started = time.monotonic()
    with pytest.raises(UsageError, match="has not written the plan"):
        planning._wait_for(file)
    assert time.monotonic() - started < 30


def test_a_folder_that_cannot_be_written_to_still_trains_alone(dataset, monkeypatch):
    def refuse(*_arguments, **_more):
        raise UsageError("can't be written: read-only", where="plan.yaml")

    from pipeline.ingest.store import open_dataset
    from pipeline.train.plan import write
    from services.cli.console import Console

    given = settings.from_assignments(TINY)
    whole = make.make_plan
    monkeypatch.setattr(make, "make_plan", lambda data, _asked: whole(data, make.Request(given)))
    monkeypatch.setattr(write, "write_plan", refuse)
    opened = open_dataset(dataset)
    layer = planning._make_plan(opened, dataset / "plan.yaml", 1, Console())
    assert layer.tree["network"]["backbone"]
    with pytest.raises(HilumError):
        planning._make_plan(opened, dataset / "plan.yaml", 2, Console())
    assert not (dataset / "plan.yaml").exists()
