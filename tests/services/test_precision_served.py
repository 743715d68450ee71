"""A precision that is asked for is served where the evidence allows it, named in every score, and refused at start elsewhere."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.model.kinds import kind_of
from services.cli.main import main
from tests.model.precise import write_precise
from tests.services.conftest import CONTRACT, ROOT, log_with, serving, wait_until_ready
from tests.services.test_scores import JPEG, post


@pytest.fixture(scope="module")
def precise(tmp_path_factory):
    """A package under the contract of fundus photographs, with evidence for this machine's precisions."""
    return write_precise(tmp_path_factory.mktemp("precise"), CONTRACT, name="small-fundus")


def test_int8_is_named_in_the_score_and_replayed_bit_for_bit(precise, tmp_path, capsys):
    receipts, photograph = tmp_path / "receipts", tmp_path / "photo.jpg"
    photograph.write_bytes(JPEG)
    words = ("--precision", "int8", "--receipts", str(receipts), "--threads", "2")
    with serving(precise.folder, tmp_path / "log", *words) as served:
        wait_until_ready(served)
        with served.client() as client:
            score = post(client, JPEG).json()
            summary = client.get("/v1/model").json()
        ready = next(
            line
            for line in map(json.loads, log_with(served, '"ready"').splitlines())
            if line["event"] == "ready"
        )
    assert kind_of(score["model"]["runtime"]).precision == "int8"
    assert summary["runtime"] == score["model"]["runtime"] == ready["runtime"]
    assert (ready["threads"], ready["batch"], ready["not_taken"]) == (2, 1, [])
    assert ready["largest_probability_difference"] <= 0.01
    replay = ["replay", score["score_id"], "--input", str(photograph), "--log", str(receipts)]
    assert main([*replay, "--model", str(precise.folder)]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out


def test_images_of_many_clients_run_together_and_are_replayed_bit_for_bit(
    package, tmp_path, capsys
):
    receipts, photograph = tmp_path / "receipts", tmp_path / "photo.jpg"
    photograph.write_bytes(JPEG)
    words = ("--batch", "4", "--receipts", str(receipts), "--threads", "2")
    with serving(package.folder, tmp_path / "log", *words, HILUM_BATCH_MS="20") as served:
        wait_until_ready(served)
        with served.client() as client, ThreadPoolExecutor(16) as clients:
            scores = [done.json() for done in clients.map(lambda _: post(client, JPEG), range(32))]
            figures = client.get("/metrics").text
    assert {score["model"]["runtime"].endswith(" batch 4") for score in scores} == {True}
    assert len({json.dumps(score["logits"]) for score in scores}) == 1
    runs = float(re.search(r"hilum_batch_size_count (\S+)", figures)[1])
    images = float(re.search(r"hilum_batch_size_sum (\S+)", figures)[1])
    assert images == 32
    assert runs < 32
    replay = ["replay", scores[-1]["score_id"], "--input", str(photograph), "--log", str(receipts)]
    assert main([*replay, "--model", str(package.folder)]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--precision", "int8"), "the package has no int8 graph"),
        (("--runtime", "openvino", "--batch", "4"), "OpenVINO runs one image at a time, not 4"),
    ],
)
def test_what_is_not_allowed_is_refused_before_anything_listens(package, words, reason):
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "serve", package.folder, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"may not be scored in {words[1]}" in done.stderr
    assert reason in done.stderr
    assert "serving" not in done.stdout


def test_fast_serves_fp32_without_evidence_and_the_log_says_why(package, tmp_path):
    words = ("--runtime", "onnxruntime")
    log = tmp_path / "log"
    with serving(package.folder, log, *words, HILUM_PRECISION="fast") as served:
        wait_until_ready(served)
        text = log_with(served, '"ready"')
        with served.client() as client:
            score = post(client, JPEG).json()
    assert kind_of(score["model"]["runtime"]).precision == "fp32"
    assert "onnxruntime int8: the package has no int8 graph" in text
