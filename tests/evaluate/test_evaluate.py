"""A real road in small: files, data set, a run with a package in MLflow, evaluation, registration."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.card import Evaluation
from data_schemas.errors import DatasetError, TrackingError, UsageError
from data_schemas.progress import silent
from pipeline.evaluate import statistics
from pipeline.evaluate.evaluate import evaluate_run
from pipeline.evaluate.final import final_package
from pipeline.ingest.ingest import ingest
from pipeline.ingest.store import open_dataset
from pipeline.model.decision import positive_probability
from pipeline.model.export import export_package
from pipeline.model.package import open_package
from pipeline.model.runtime import Runtime
from pipeline.tracking.finding import download
from pipeline.tracking.registry import fetch_package, register
from pipeline.tracking.runs import tracked_run
from pipeline.tracking.store import open_client
from tests.evaluate.conftest import SpotNetwork
from tests.model import tiny_network as tiny


def _draw(folder, count=40, seed=0):
    """Two eyes a patient; brighter spots where the label is 1, with an overlap."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    lines = ["image,patient,laterality,split,referable"]
    for index in range(count):
        label = int(generator.random() < 0.5)
        pixels = generator.integers(5, 40, (32, 32, 3)).astype(np.uint8)
        level = int(np.clip(generator.normal(95 + 60 * label, 40), 0, 255))
        top, left = generator.integers(0, 20, 2)
        pixels[top : top + 12, left : left + 12] = level
        name = f"{index:03}.png"
        Image.fromarray(pixels).save(folder / name)
        split = "test" if index < count * 3 // 4 else "calibration"
        lines.append(f"{name},p{index // 2:03},{'LR'[index % 2]},{split},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "letter.txt").write_text("not an image")
    return folder


def _ingested(folder, seed=0):
    source = _draw(folder / "source", seed=seed)
    out = folder / "dataset"
    ingest(source, source / "labels.csv", out, tiny.CONTRACT, key=b"k" * 32, progress=silent)
    return out


@pytest.fixture(scope="module")
def road(tmp_path_factory, migrated_store):
    """Folder of the data set, address of the store, id of a finished run that holds a package."""
    base = tmp_path_factory.mktemp("road")
    dataset = _ingested(base)
    info = open_dataset(dataset).info
    card = tiny.card(
        outputs=(tiny.BINARY,),
        points=(tiny.point("referable", 0.5, 0.5),),
        dataset_name=info.name,
        dataset_sha256=info.content_sha256,
    )
    images = open_dataset(dataset).pixels(np.arange(6))
    export_package(SpotNetwork(), images, card, tiny.CONTRACT, base / "package")
    shutil.copyfile(migrated_store, base / "mlflow.db")
    uri = f"sqlite:///{base / 'mlflow.db'}"
    with tracked_run(uri, "tiny", "spot", {}) as run:
        run.log_files(base / "package", "package")
    return dataset, uri, run.run_id


@pytest.fixture(scope="module")
def evaluation(road):
    dataset, uri, run_id = road
    return evaluate_run(run_id, dataset, uri, silent)


def test_figures_are_those_of_the_package_on_the_test_split(road, evaluation, tmp_path):
    folder, uri, run_id = road
    dataset = open_dataset(folder)
    package = open_package(download(uri, run_id, "package", tmp_path))
    indices = dataset.indices("test")
    logits = Runtime(package).run(dataset.pixels(indices)).logits
    truth = dataset.labels("referable")[indices]
    probability = positive_probability(package.card, "referable", logits)
    called = probability >= 0.5
    found = evaluation.statistics
    assert evaluation.images == indices.size == 30
    assert evaluation.patients == 15
    assert evaluation.package_sha256 == package.sha256
    assert 0.6 < found["auc/referable"].value == statistics.auc(truth, probability) < 1
    assert found["auc/official"].value == found["auc/referable"].value
    assert found["auc/referable"].method == "DeLong by patient, logit"
    sensitivity = found["sensitivity/referable"]
    counts = (int((called & (truth == 1)).sum()), int(truth.sum()))
    assert (sensitivity.numerator, sensitivity.denominator) == counts
    whose = dataset.patients()[indices]
    ill = np.unique(whose[truth == 1]).size
    # all are found: patients are the trials
    assert counts[0] == counts[1] > ill
    assert (sensitivity.low, sensitivity.high) == pytest.approx(
        statistics.clopper_pearson(ill, ill)
    )
    # some answers are right: images of a patient count by how alike their probabilities are
    right = called == truth
    assert 0 < right.sum() < right.size
    effect = statistics.design_effect(np.where(truth == 1, probability, 1 - probability), whose)
    assert effect >= 1
    accuracy = found["accuracy/referable"]
    fewer = (int(right.sum()) / effect, right.size / effect)
    assert (accuracy.low, accuracy.high) == pytest.approx(statistics.clopper_pearson(*fewer))
    assert evaluation.confusion["referable"] == tuple(
        map(tuple, statistics.confusion(truth, called.astype(int), 2).tolist())
    )
    assert found["accuracy/referable"].value == np.mean(called == truth)
    assert any("15 patients" in note for note in evaluation.notes)
    assert any("NOT_AN_IMAGE 1" in note for note in evaluation.notes)


def test_a_reviewer_finds_tables_pictures_and_a_page(road, evaluation, tmp_path):
    _, uri, run_id = road
    tables = {
        name: json.loads(download(uri, run_id, f"eval/{name}.json", tmp_path).read_text())
        for name in ("subgroups", "classes", "mistakes")
    }
    groups = {
        row[0]: dict(zip(tables["subgroups"]["columns"], row, strict=True))
        for row in tables["subgroups"]["data"]
    }
    # left and right eyes are each half of the split, and both together all of it
    assert groups["all"]["images"] == evaluation.images
    sides = [groups["laterality: L"]["images"], groups["laterality: R"]["images"]]
    assert sides == [15, 15]
    sensitivity = evaluation.statistics["sensitivity/referable"]
    assert groups["all"]["sensitivity"].startswith(f"{sensitivity.value:.3f} (")
    cells = evaluation.confusion["referable"]
    wrong = sum(map(sum, cells)) - sum(cells[k][k] for k in range(2))
    kinds = [row[-1] for row in tables["mistakes"]["data"]]
    assert len(kinds) == wrong > 0
    assert kinds.count("missed") == sensitivity.denominator - sensitivity.numerator
    assert [row[2:4] for row in tables["classes"]["data"]] == [
        [sum(cells[k]), cells[0][k] + cells[1][k]] for k in range(2)
    ]
    client = open_client(uri)
    names = {entry.path for entry in client.list_artifacts(run_id, "images")}
    assert any("/worst_f" in name and "_test+" in name and name.endswith(".png") for name in names)
    page = download(uri, run_id, "review.html", tmp_path).read_text()
    assert "How good?" in page
    assert client.get_run(run_id).data.tags["mlflow.note.content"].count("<br>") == 4
    # pseudonyms are there, names of files are not
    assert "000.png" not in page + json.dumps(tables)


def test_pictures_stay_out_of_a_run_that_was_told_so(road, evaluation):
    folder, uri, _ = road
    client = open_client(uri)
    with tracked_run(uri, "tiny", "no pictures", {"hilum.images": "none"}) as run:
        run.log_files(folder.parent / "package", "package")
    evaluate_run(run.run_id, folder, uri, silent)
    assert not client.list_artifacts(run.run_id, "images")
    assert {entry.path for entry in client.list_artifacts(run.run_id, "eval")}


def test_run_holds_metrics_figures_predictions_and_the_evaluation(road, evaluation, tmp_path):
    folder, uri, run_id = road
    client = open_client(uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    metrics = run.data.metrics
    assert metrics["test/auc"] == pytest.approx(evaluation.statistics["auc/referable"].value)
    assert metrics["test/auc_lo"] < metrics["test/auc"] < metrics["test/auc_hi"]
    assert {"test/sensitivity", "test/specificity", "test/accuracy", "test/brier", "test/ece"} <= (
        metrics.keys()
    )
    assert metrics["test/undefined"] == 0
    assert {entry.path for entry in client.list_artifacts(run_id, "figures")} == {
        f"figures/{name}.png" for name in ("roc", "reliability", "confusion", "score_histogram")
    }
    stored = json.loads(download(uri, run_id, "evaluation.json", tmp_path).read_text())
    assert Evaluation.model_validate(stored) == evaluation
    table = pq.read_table(download(uri, run_id, "evaluation/predictions.parquet", tmp_path))
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert table.num_rows == 30
    dataset = open_dataset(folder)
    pseudonyms = set(dataset.patients()[dataset.indices("test")].tolist())
    assert set(table["patient"].to_pylist()) == pseudonyms
    assert not any(name.startswith("p0") for name in pseudonyms)
    rebuilt = statistics.auc(
        table["truth_referable"].to_numpy(), table["probability_referable"].to_numpy()
    )
    assert rebuilt == evaluation.statistics["auc/referable"].value


def test_registered_package_carries_the_evaluation(road, evaluation, tmp_path):
    _, uri, run_id = road
    package = final_package(run_id, uri, tmp_path / "scratch", name="eyes")
    assert package.card.name == "eyes"
    assert package.card.evaluation == evaluation
    version = register(uri, run_id, package.folder, "tiny", "champion")
    fetched = fetch_package("models:/tiny@champion", uri, tmp_path / "fetched")
    assert fetched.version == version
    assert open_package(fetched.folder).sha256 == package.sha256


def test_another_split_does_not_pass_for_the_test(road, evaluation, tmp_path):
    dataset, uri, run_id = road
    other = evaluate_run(run_id, dataset, uri, silent, "calibration")
    assert (other.split, other.images) == ("calibration", 10)
    metrics = open_client(uri).get_run(run_id).data.metrics
    assert metrics["test/images"] == 30
    assert metrics["calibration/images"] == 10
    assert final_package(run_id, uri, tmp_path).card.evaluation == evaluation
    with pytest.raises(UsageError, match="is not a split"):
        evaluate_run(run_id, dataset, uri, silent, "holdout")
    with pytest.raises(DatasetError, match="has no images"):
        evaluate_run(run_id, dataset, uri, silent, "tune")


def test_another_data_set_is_refused(road, tmp_path):
    _, uri, run_id = road
    with pytest.raises(DatasetError, match="was trained on"):
        evaluate_run(run_id, _ingested(tmp_path, seed=5), uri, silent)
    assert open_client(uri).get_run(run_id).info.status == "FINISHED"


def test_without_an_evaluation_registration_is_refused_unless_asked(road, tmp_path):
    _, uri, _ = road
    with tracked_run(uri, "tiny", "unmeasured", {}) as run:
        run.log_files(download(uri, road[2], "package", tmp_path / "copy"), "package")
    with pytest.raises(UsageError, match="was not evaluated") as caught:
        final_package(run.run_id, uri, tmp_path / "one")
    assert f"hilum evaluate {run.run_id}" in caught.value.mend
    package = final_package(run.run_id, uri, tmp_path / "two", without_evaluation=True)
    assert package.card.evaluation is None
    assert "without an evaluation" in package.card.notes[-1]


def test_an_evaluation_of_another_package_is_refused(road, evaluation, tmp_path):
    _, uri, _ = road
    with tracked_run(uri, "tiny", "mixed up", {}) as run:
        run.log_files(download(uri, road[2], "package", tmp_path / "copy"), "package")
        other = evaluation.model_copy(update={"package_sha256": "0" * 64})
        run.log_json(other.model_dump(mode="json"), "evaluation.json")
    with pytest.raises(UsageError, match="evaluation is of package 000000000000"):
        final_package(run.run_id, uri, tmp_path / "scratch")
    with tracked_run(uri, "tiny", "nothing in it", {}) as run:
        pass
    with pytest.raises(TrackingError, match="no artifact `package`"):
        final_package(run.run_id, uri, tmp_path / "empty")
