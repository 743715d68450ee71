"""The command `hilum report`: text, JSON, file, standard input, and refusals."""

import io
import json

import pytest

from data_schemas.report import BANNER, Draft
from services.cli.main import main


@pytest.fixture
def score_file(demo_like_scores, tmp_path):
    path = tmp_path / "score.json"
    demo_like_scores[0].write_json(path)
    return path


def test_text_begins_with_the_banner_and_says_that_sentences_are_fixed(score_file, capsys):
    assert main(["report", str(score_file)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == BANNER
    assert "Sentences: fixed" in out
    assert "no --writer: the sentences are fixed" in err


def test_a_writer_is_used_and_named(score_file, writer_folder, capsys):
    assert main(["report", str(score_file), "--writer", str(writer_folder)]) == 0
    assert "Sentences: chosen by the report writer" in capsys.readouterr().out


def test_json_is_a_draft(score_file, capsys):
    for words in (["--format", "json"], ["--json"]):
        assert main(["report", str(score_file), *words]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert Draft.from_tree(tree, where="stdout").status == "draft"


def test_it_writes_a_file(score_file, tmp_path, capsys):
    out = tmp_path / "draft.json"
    assert main(["report", str(score_file), "--out", str(out), "--format", "json"]) == 0
    assert Draft.read_json(out).digest() in capsys.readouterr().out


def test_it_reads_standard_input(score_file, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(score_file.read_text()))
    assert main(["report", "-"]) == 0
    assert capsys.readouterr().out.startswith(BANNER)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ('{"schema_version": 7}', "schema_version is 7"),
        ('{"schema_version": 1}', "image: Field required"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_score_is_refused_in_words(tmp_path, capsys, content, said):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    assert main(["report", str(path)]) != 0
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_another_vocabulary_than_the_writers_is_refused(
    score_file, writer_folder, tmp_path, capsys
):
    other = tmp_path / "words.yaml"
    text = (writer_folder / "vocabulary.yaml").read_text()
    other.write_text(text.replace("Right eye.", "The right eye."))
    words = ["report", str(score_file), "--writer", str(writer_folder), "--vocabulary", str(other)]
    assert main(words) == 2
    assert "trained on another vocabulary" in capsys.readouterr().err
