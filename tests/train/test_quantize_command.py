"""`hilum quantize` and `hilum verify` on a run and its data set, as a user gives them."""

import json

from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.ingest.store import open_dataset
from pipeline.model.kinds import kind_of
from pipeline.model.package import open_package
from pipeline.model.sums import INT8_GRAPH
from pipeline.train import run as training
from pipeline.train.world import open_world
from services.cli.main import main


def test_a_run_becomes_a_package_with_an_8_bit_graph_and_its_evidence(
    drawn_dataset, mlflow_uri, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    folder = drawn_dataset(tmp_path, (64, 80, 8), 120, 100)
    plan = Plan(
        network=NetworkPlan(backbone="convnet", stride=8),
        learning=Learning(epochs=2, batch=16),
        threads=1,
    )
    world = open_world(plan.device, plan.threads, plan.seed)
    place = training.Place(mlflow_uri, "tests", "tiny")
    run = training.train(open_dataset(folder), plan, place, world, lambda *_: None, lambda _: None)
    capsys.readouterr()
    words = ["quantize", run.run_id, "--dataset", str(folder), "--out", "small", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    package = open_package(tmp_path / "small")
    assert told["package_sha256"] == package.sha256
    assert INT8_GRAPH in package.digests
    assert "onnxruntime fp32" in told["allowed"]
    rows = {str(kind_of(row["precision"])): row for row in told["checks"]}
    assert (rows["onnxruntime int8"]["images"], rows["onnxruntime int8"]["split"]) == (
        40,
        "calibration",
    )
    assert main(["verify", "small", "--dataset", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images_of"] == "calibration split"
    # what the card says of 8 bits is found again on the same images
    (again,) = [
        row for row in told["rows"] if (row["runtime"], row["precision"]) == ("onnxruntime", "int8")
    ]
    assert again["images"] == 40
    assert again["changed"] == rows["onnxruntime int8"]["changed_verdicts"]
    # nothing is written over
    assert main(words) == 1
    assert "already" in capsys.readouterr().err
