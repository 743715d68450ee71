"""Receipts of a running service: none lost or doubled by a kill, none answered on a full disk, replayed."""

import concurrent.futures
import contextlib
import json
import threading
import time

import httpx
import psutil
import pytest

from data_schemas.receipt import output_digest
from data_schemas.score import Score
from services.cli.main import main
from services.inference.receipt_check import find_receipt, verify_log
from services.inference.receipt_files import files_of
from tests.services import drawn_files as drawn
from tests.services.conftest import log_with, serving, wait_until_ready, write_package
from tests.services.test_scores import JPEG, check_problem, post

KEY = "5e" * 32


def score_ids(folder):
    lines = [line for path in files_of(folder) for line in path.read_bytes().splitlines()]
    return [json.loads(line).get("score_id") for line in lines]


def tree_of(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def kill(process):
    """SIGKILL for the service and all its processes at once."""
    for one in tree_of(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(timeout=60)


def test_no_answered_receipt_is_lost_or_doubled_by_a_kill(package, tmp_path):
    folder = tmp_path / "receipts"
    answered = []

    def client_of(url, stop):
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not stop.is_set():
                try:
                    answer = post(client, JPEG)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    answered.append(answer.json()["score_id"])

    for turn in range(2):
        log = tmp_path / f"log-{turn}"
        with serving(package.folder, log, HILUM_RECEIPTS=str(folder)) as running:
            wait_until_ready(running)
            stop = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                clients = [pool.submit(client_of, running.url, stop) for _ in range(6)]
                before = len(answered)
                end = time.monotonic() + 30
                while len(answered) < before + 40 and time.monotonic() < end:
                    time.sleep(0.02)
                kill(running.process)
                stop.set()
                for one in clients:
                    one.result()
    with serving(package.folder, tmp_path / "log", HILUM_RECEIPTS=str(folder)) as running:
        wait_until_ready(running)
        with running.client() as client:
            answered.append(post(client, JPEG).json()["score_id"])
    kept = [name for name in score_ids(folder) if name]
    assert len(answered) > 80
    assert len(set(kept)) == len(kept)
    assert set(answered) <= set(kept)
    assert verify_log(folder).flaws == []


@pytest.mark.disk("64k")
def test_on_a_full_disk_nothing_is_answered_and_it_goes_on_by_itself(package, disk, tmp_path):
    folder, ballast = disk / "receipts", disk / "ballast"
    with serving(package.folder, tmp_path / "log", HILUM_RECEIPTS=str(folder)) as running:
        wait_until_ready(running)
        with running.client() as client:
            for _ in range(12):
                assert post(client, JPEG).status_code == 200
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(1024))
            # the last page of the log may hold a few more lines
            answers = [post(client, JPEG) for _ in range(12)]
            kept = sum(answer.status_code == 200 for answer in answers)
            assert kept < 12
            for answer in answers[kept:]:
                assert "ENOSPC" in check_problem(answer, 503, "RECEIPT_NOT_KEPT").detail
            answer = client.get("/readyz")
            check_problem(answer, 503, "RECEIPT_NOT_KEPT")
            assert answer.headers["retry-after"] == "5"
            assert client.get("/healthz").status_code == 200
            time.sleep(1.1)
            check_problem(client.get("/readyz"), 503, "RECEIPT_NOT_KEPT")
            ballast.unlink()
            time.sleep(1.1)
            assert client.get("/readyz").status_code == 200
            assert post(client, JPEG).status_code == 200
        log_with(running, "receipts_kept_again")
    found = verify_log(folder)
    assert (found.flaws, found.receipts) == ([], 13 + kept)


@pytest.fixture(scope="module")
def kept(package, tmp_path_factory):
    """A sealed log of a few scores, and the scores."""
    place = tmp_path_factory.mktemp("kept")
    (place / "key").write_text(KEY + "\n")
    words = {
        "HILUM_RECEIPTS": str(place / "receipts"),
        "HILUM_RECEIPT_KEY_FILE": str(place / "key"),
    }
    files = [JPEG, drawn.dicom(drawn.fundus(3)), drawn.encoded(drawn.fundus(4), "PNG")]
    with serving(package.folder, place / "log", **words) as running:
        wait_until_ready(running)
        with running.client() as client:
            scores = [Score.from_tree(post(client, data).json(), where="answer") for data in files]
    for number, data in enumerate(files):
        (place / f"file-{number}").write_bytes(data)
    return place, scores


def test_a_receipt_says_what_the_score_says(kept):
    place, scores = kept
    for score in scores:
        receipt, _, _ = find_receipt(place / "receipts", score.score_id)
        assert receipt.output_sha256 == output_digest(score)
        assert receipt.input_sha256 == score.image.source_sha256
        assert receipt.prepared_sha256 == score.image.prepared_sha256
        assert receipt.runtime == score.model.runtime
        assert receipt.operating_point == score.operating_point


def hilum(capsys, *words):
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_the_command_verifies_with_key_and_anchors(kept, capsys, tmp_path):
    place, _ = kept
    words = ["--key", place / "key", "--anchors", place / "log"]
    code, said = hilum(capsys, "verify-receipts", place / "receipts", *words)
    assert (code, "3 receipts in 1 files, 3 lines sealed, nothing wrong" in said) == (0, True)
    (tmp_path / "other").write_text("77" * 32)
    code, said = hilum(capsys, "verify-receipts", place / "receipts", "--key", tmp_path / "other")
    assert (code, "unsealed" in said) == (1, True)
    code, said = hilum(capsys, "verify-receipts", tmp_path)
    assert (code, "holds no receipt log" in said) == (2, True)


def replay(capsys, place, score, file, model):
    log = place / "receipts"
    return hilum(capsys, "replay", score.score_id, "--input", file, "--log", log, "--model", model)


def test_a_replay_gives_the_same_bit_for_bit(kept, package, capsys):
    place, scores = kept
    for number, score in enumerate(scores):
        code, said = replay(capsys, place, score, place / f"file-{number}", package.folder)
        assert (code, "the same, bit for bit" in said) == (0, True), said


def test_a_replay_names_the_digest_that_differs(kept, package, capsys, tmp_path):
    place, scores = kept
    code, said = replay(capsys, place, scores[0], place / "file-2", package.folder)
    assert (code, "not the same: the input differs" in said) == (1, True)
    (tmp_path / "letter").write_bytes(b"no image")
    code, said = replay(capsys, place, scores[0], tmp_path / "letter", package.folder)
    assert (code, "not the same: the input differs" in said) == (1, True)
    other = write_package(tmp_path / "other", intended_use="something else").folder
    code, said = replay(capsys, place, scores[0], place / "file-0", other)
    assert (code, "not the same: the package differs" in said) == (1, True)
    assert "output          same" in said
    name = scores[0].model_copy(update={"score_id": "none"})
    code, said = replay(capsys, place, name, place / "file-0", package.folder)
    assert (code, "no receipt of the score none" in said) == (2, True)


def test_a_service_without_a_folder_says_so(served):
    assert '"event": "no_receipts"' in log_with(served, "no_receipts")
