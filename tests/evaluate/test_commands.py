"""The commands evaluate, register and score at the door: what they print, refuse and return."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.card import Evaluation, Interval
from data_schemas.errors import UsageError
from services.cli.commands import evaluate
from services.cli.main import main


def _picture(seed=0):
    generator = np.random.default_rng(seed)
    buffer = io.BytesIO()
    pixels = generator.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_score_prints_counts_and_ends_well(spot_package, tmp_path, capsys):
    folder = tmp_path / "in" / "deeper"
    folder.mkdir(parents=True)
    (folder / "eye.png").write_bytes(_picture())
    (tmp_path / "in" / "letter.txt").write_text("no image")
    out = tmp_path / "scores.parquet"
    words = ["score", str(tmp_path / "in"), "--model", str(spot_package.folder), "--out", str(out)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == 2
    assert told["counts"]["NOT_AN_IMAGE"] == 1
    assert told["package_sha256"] == spot_package.sha256
    assert pq.read_table(out).num_rows == 2
    assert main(words) == 0
    assert "NOT_AN_IMAGE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("paths", "model", "code", "word"),
    [
        (["nowhere"], "given", 2, "nowhere: there is no such file or folder"),
        (["."], "no-package", 1, "no such package folder"),
    ],
)
def test_score_refuses_in_a_sentence(
    tmp_path, spot_package, monkeypatch, capsys, paths, model, code, word
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(_picture())
    model = str(spot_package.folder) if model == "given" else model
    assert main(["score", *paths, "--model", model, "--out", "x.parquet"]) == code
    assert word in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def test_table_shows_intervals_counts_and_what_is_undefined():
    statistics = {
        "auc/x": Interval(value=0.9, low=0.8, high=0.95, method="DeLong, logit"),
        "sensitivity/x": Interval(
            value=0.75, low=0.2, high=0.99, method="Clopper-Pearson", numerator=3, denominator=4
        ),
        "specificity/x": Interval(value=None, method="Clopper-Pearson"),
    }
    text = evaluate.table(
        Evaluation(
            dataset_sha256="d" * 64,
            split="test",
            images=4,
            patients=2,
            statistics=statistics,
            confusion={},
            notes=("specificity/x: undefined: a class is missing",),
        )
    )
    assert "4 images of 2 patients" in text
    for words in (("0.900", "0.800-0.950"), ("3/4", "Clopper-Pearson"), ("undefined",)):
        assert any(all(word in line for word in words) for line in text.splitlines())
    assert text.endswith("note: specificity/x: undefined: a class is missing")


def test_a_run_whose_data_set_is_gone_asks_for_it(tmp_path):
    for tags in ({}, {evaluate.DATASET_TAG: str(tmp_path / "gone")}):
        with pytest.raises(UsageError) as caught:
            evaluate._noted_dataset(tags, "abc")
        assert caught.value.mend == "hilum evaluate abc --dataset FOLDER"
    assert evaluate._noted_dataset({evaluate.DATASET_TAG: str(tmp_path)}, "abc") == tmp_path
