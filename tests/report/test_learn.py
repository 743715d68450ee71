"""Training: what it writes, what it logs, what it refuses, and what the writer learns."""

import copy
import json

import numpy as np
import pytest
import torch

from data_schemas.errors import ReportError
from data_schemas.report import WriterCard, WriterPlan
from pipeline.report.language import END, TEXT, tokens_of
from pipeline.report.learn import TorchWriter, batch_of, learn
from pipeline.report.network import Decoder, Size
from pipeline.report.simulate import draw_report
from pipeline.report.write import open_writer
from services.cli.main import main


def test_the_folder_holds_a_writer_that_agrees_with_its_weights(writer_folder):
    import safetensors.torch

    writer = open_writer(writer_folder)
    card = writer.card
    assert {file.name for file in writer_folder.iterdir()} == {
        "writer.onnx",
        "writer.safetensors",
        "writer.json",
        "vocabulary.yaml",
    }
    plan = card.plan
    size = Size(len(card.tokens), card.positions, plan.layers, plan.heads, plan.width)
    network = Decoder(size)
    network.load_state_dict(safetensors.torch.load_file(writer_folder / "writer.safetensors"))
    assert size.parameters == card.parameters
    rng = np.random.default_rng(0)
    for length in (1, 2, 30, card.positions):
        numbers = rng.integers(0, len(card.tokens), length).tolist()
        ours = TorchWriter(network.eval(), card.tokens).logits(numbers)
        assert np.abs(ours - writer.logits(numbers)).max() <= 1e-4
    with pytest.raises(ReportError, match="tokens, the writer reads"):
        writer.logits([0] * (card.positions + 1))


def test_the_graph_tells_nothing_about_the_machine_it_was_made_on(writer_folder):
    data = (writer_folder / "writer.onnx").read_bytes()
    assert b".py" not in data
    assert b"site-packages" not in data


def test_the_run_is_finished_and_holds_the_writer(writer_folder):
    from mlflow import MlflowClient

    card = WriterCard.read_json(writer_folder / "writer.json")
    client = MlflowClient(f"sqlite:///{writer_folder.parent}/mlflow.db")
    run = client.get_run(card.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["writer.layers"] == "3"
    assert {"train/loss", "tune/loss", "trained/one_style", "untrained/one_style"} <= set(
        run.data.metrics
    )
    logged = {file.path for file in client.list_artifacts(card.run_id, "writer")}
    assert "writer/writer.onnx" in logged


def test_every_text_fits_into_the_positions(vocabulary, writer_folder):
    card = WriterCard.read_json(writer_folder / "writer.json")
    rng = np.random.default_rng(9)
    for _ in range(300):
        report = draw_report(vocabulary, rng)
        words = sum(len(sentence.words) for sentence in report.sentences)
        assert words + len(report.told) + 3 <= card.positions


def test_only_words_of_the_report_are_targets(vocabulary):
    number = {word: n for n, word in enumerate(tokens_of(vocabulary))}
    rng = np.random.default_rng(1)
    reports = [draw_report(vocabulary, rng) for _ in range(5)]
    words, targets = batch_of(reports, number)
    assert words.shape == targets.shape
    for row, report in enumerate(reports):
        expected = [number[w] for s in report.sentences for w in s.words] + [number[END]]
        places = torch.nonzero(targets[row] >= 0).flatten()
        assert targets[row, places].tolist() == expected
        assert words[row, places[0]] == number[TEXT]
        assert torch.equal(words[row, places[1:]], targets[row, places[:-1]])


def test_a_folder_with_something_in_it_is_left_alone(vocabulary, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ReportError, match="is not an empty folder"):
        learn(vocabulary, WriterPlan(), tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_vocabulary_that_the_reader_can_not_read_is_refused(vocabulary, tmp_path):
    words = vocabulary.findings["haemorrhages"]
    phrases = copy.deepcopy(words.phrases)
    phrases["absent"]["full"] = ("Haemorrhages have gone.", "There are no haemorrhages.")
    changed = words.model_copy(update={"phrases": phrases})
    spoiled = vocabulary.model_copy(
        update={"findings": {**vocabulary.findings, "haemorrhages": changed}}
    )
    with pytest.raises(ReportError, match="no draft may hold: gone"):
        learn(spoiled, WriterPlan(), tmp_path / "w", f"sqlite:///{tmp_path}/mlflow.db")
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_trained_writer_keeps_one_style_and_random_weights_do_not(tmp_path, monkeypatch, capsys):
    """The command as a person runs it, with the plan's defaults."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert main(["train-report", "--out", str(tmp_path / "w"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["trained/one_style"] >= 0.8 > 0.3 >= figures["untrained/one_style"]
    assert figures["trained/next_sentence"] >= 0.6 > figures["untrained/next_sentence"] + 0.2
    assert figures["trained/gathers"] >= 0.7 > figures["untrained/gathers"]
