"""The whole road on a tiny cohort, through the command line: files in, a draft report out.

And the promise that carries it: what the network was trained on and what the service computes from
the same files are the same arrays, byte for byte, and the same logits.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from pydicom.data import get_testdata_file

from data_schemas.files import sha256, sha256_of_file
from data_schemas.plan import NetworkPlan
from data_schemas.score import Score
from pipeline.ingest.store import open_dataset
from pipeline.model.package import open_package
from pipeline.tracking.registry import fetch_package
from pipeline.train import networks
from tests.services import drawn_files as drawn

ROOT = Path(__file__).parents[2]
SPLITS = ["train"] * 12 + ["tune"] * 4 + ["calibration"] * 6 + ["test"] * 4
"""Split of each patient; both eyes go with the patient."""

NETWORK = NetworkPlan(backbone="convnet", weights="none", stride=8)
PLAN = f"""
labels: [referable, exudates]
primary: referable
network: {{backbone: {NETWORK.backbone}, weights: none, stride: {NETWORK.stride}}}
learning: {{epochs: 4, batch: 8, rate: 0.004}}
augmentation: {{rotation_deg: 20, noise: 0.01}}
operating: {{rule: youden}}
seed: 3
device: cpu
threads: 1
"""
NAME = "Muster^Erika"
FAULTS = {
    "letter.txt": "NOT_AN_IMAGE",
    "cut.dcm": "TRUNCATED",
    "ct.dcm": None,
    "twin.png": "DUPLICATE",
}


def photograph(seed, *, ill):
    """Return a drawn photograph, with bright deposits if ``ill``."""
    pixels = drawn.fundus(seed, side=160).astype(int)
    generator = np.random.default_rng(1000 + seed)
    for _ in range(8 if ill else 0):
        top, left = generator.integers(50, 105, 2)
        pixels[top : top + 9, left : left + 9] += np.array([60, 130, 60])
    return np.clip(pixels, 0, 255).astype(np.uint8)


def draw_cohort(folder):
    """Write both eyes of each patient as DICOM or JPEG, the label table, and some faults."""
    folder.mkdir()
    rows = []
    for patient, split in enumerate(SPLITS):
        for side in "LR":
            seed = 2 * patient + (side == "R")
            ill = int(patient % 2 == 0)
            pixels = photograph(seed, ill=ill)
            if side == "L":
                name = f"{seed:03}.dcm"
                data = drawn.dicom(pixels, PatientName=NAME, PatientID=f"MRN{patient:04}")
            else:
                name, data = f"{seed:03}.jpg", drawn.encoded(pixels)
            (folder / name).write_bytes(data)
            rows.append([name, f"MRN{patient:04}", side, split, ill, int(ill and side == "L")])
    (folder / "letter.txt").write_text("Dear colleague,")
    (folder / "cut.dcm").write_bytes((folder / "000.dcm").read_bytes()[:40_000])
    (folder / "ct.dcm").write_bytes(
        Path(get_testdata_file("CT_small.dcm", read=False)).read_bytes()
    )
    (folder / "twin.png").write_bytes(drawn.encoded(photograph(0, ill=1), "PNG"))
    rows.append(["cut.dcm", "MRN0000", "L", "train", 1, 1])
    rows.append(["ct.dcm", "MRN0001", "L", "train", 0, 0])
    rows.append(["twin.png", "MRN0000", "L", "train", 1, 1])
    table = folder.parent / "labels.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "patient", "laterality", "split", "referable", "exudates"])
        writer.writerows(rows)
    return table


class Road:
    """Runs `hilum` in a folder, as a person would, and keeps everything it prints."""

    def __init__(self, folder, uri):
        self.folder = folder
        self.said = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": uri,
            "HILUM_PSEUDONYM_KEY": "a key for the tests only",
            "OMP_NUM_THREADS": "1",
        }

    def hilum(self, *words):
        """Run a command and return its result as parsed JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *words, "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.said += [done.stdout, done.stderr]
        assert done.returncode == 0, f"hilum {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    @contextmanager
    def serving(self, model):
        """Serve a model while the block lasts; yield a client."""
        log = self.folder / "serve.log"
        with (
            log.open("wb") as stream,
            subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", "serve", model, "--port", "0"],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            ) as process,
        ):
            try:
                line = process.stdout.readline()
                assert " on http://127.0.0.1:" in line, log.read_text()
                url = line.split()[-1]
                transport = httpx.HTTPTransport(retries=3)
                with httpx.Client(
                    base_url=url, timeout=60, trust_env=False, transport=transport
                ) as client:
                    while (ready := client.get("/readyz")).status_code != 200:
                        assert "being loaded" in ready.text, log.read_text()
                    yield client
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=40) == 0
            finally:
                process.kill()
                self.said.append(log.read_text())


def torch_logits(folder, pixels):
    """Return the logits [n, 2] of the package's weights in torch, not of its ONNX graph."""
    size = pixels.shape[1]
    network = networks.build(NETWORK, 2, size).eval()
    network.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    with torch.no_grad():
        return network(torch.from_numpy(pixels))[0].numpy()


@pytest.mark.slow
def test_the_whole_road(tmp_path, mlflow_uri):
    road = Road(tmp_path, mlflow_uri)
    labels = draw_cohort(tmp_path / "files")

    contract = ["--contract", "fundus", "--set", "size=64", "--set", "quality.check=false"]
    made = road.hilum("ingest", "files", "--labels", str(labels), "--out", "dataset", *contract)
    assert made["images"] == 2 * len(SPLITS)
    assert made["patients"] == len(SPLITS)
    check_refusals(tmp_path)
    again = road.hilum("ingest", "files", "--labels", str(labels), "--out", "again", *contract)
    assert again["content_sha256"] == made["content_sha256"]

    (tmp_path / "plan.yaml").write_text(PLAN)
    run = road.hilum("train", "dataset", "--config", "plan.yaml")["run_id"]
    evaluation = road.hilum("evaluate", run, "--dataset", "dataset")
    assert evaluation["split"] == "test"
    assert evaluation["images"] == 2 * SPLITS.count("test")
    registered = road.hilum("register", run, "--name", "eyes", "--alias", "champion")
    assert registered["model"] == "models:/eyes@champion"

    with road.serving("models:/eyes@champion") as client:
        scores = check_parity(client, tmp_path, mlflow_uri, registered["package_sha256"])
        for name in ("letter.txt", "cut.dcm"):
            answer = client.post("/v1/scores", content=(tmp_path / "files" / name).read_bytes())
            assert 400 <= answer.status_code < 500
            assert answer.json()["code"]
        slice_of_a_ct = (tmp_path / "files" / "ct.dcm").read_bytes()
        assert client.post("/v1/scores", content=slice_of_a_ct).json()["verdict"] == "out_of_scope"

    check_batch(road, tmp_path, scores)
    check_report(road, tmp_path, scores["000.dcm"])
    check_nothing_identifying(road, tmp_path)


def check_refusals(folder):
    table = pq.read_table(folder / "dataset" / "refusals.parquet").to_pylist()
    found = {row["source_sha256"]: row["code"] for row in table}
    for name, code in FAULTS.items():
        digest = sha256_of_file(folder / "files" / name)
        if name == "twin.png":  # of two files with equal pixels either one may stay
            digest = next(
                d for d in (digest, sha256_of_file(folder / "files" / "000.dcm")) if d in found
            )
        assert digest in found, f"{name} vanished without a refusal"
        assert code is None or found[digest] == code


def check_parity(client, folder, uri, package_sha256):
    """Send every file of the data set over HTTP; compare arrays and logits with training's own."""
    fetched = fetch_package("models:/eyes@champion", uri, folder / "fetched")
    package = open_package(fetched.folder)
    assert package.sha256 == package_sha256
    dataset = open_dataset(folder / "dataset")
    manifest = dataset.manifest.to_pylist()
    pixels = dataset.pixels(np.arange(len(manifest)))
    expected = torch_logits(fetched.folder, pixels)
    files = {sha256_of_file(file): file for file in (folder / "files").iterdir()}
    scores = {}
    for row, image, logits in zip(manifest, pixels, expected, strict=True):
        file = files[row["source_sha256"]]
        query = "?evidence=true" if file.name == "000.dcm" else ""
        answer = client.post(f"/v1/scores{query}", content=file.read_bytes())
        assert answer.status_code == 200, answer.text
        score = Score.from_tree(answer.json(), where=file.name)
        assert score.image.prepared_sha256 == row["pixel_sha256"] == sha256(image.tobytes())
        assert np.abs(np.array(score.logits) - logits).max() <= 1e-4
        assert score.model.package_sha256 == package_sha256
        assert score.model.version == "1"
        scores[file.name] = answer.json()
    assert {Path(name).suffix for name in scores} >= {".dcm", ".jpg"}
    # logits that are all alike would agree about nothing
    assert np.ptp(expected[:, 0]) > 0.01
    return scores


def check_batch(road, folder, scores):
    """Batch scoring answers what the service answered."""
    words = ["--model", "models:/eyes@champion", "--out", "scores.parquet"]
    counts = road.hilum("score", "files", *words)["counts"]
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    assert len(table) == sum(counts.values()) == len(list((folder / "files").iterdir()))
    verdicts = {row["source_sha256"]: row["verdict"] for row in table}
    for score in scores.values():
        assert verdicts[score["image"]["source_sha256"]] == score["verdict"]


def check_report(road, folder, score):
    (folder / "score.json").write_text(json.dumps(score))
    draft = road.hilum("report", "score.json")
    assert draft["schema_version"] == 1
    assert json.dumps(draft).count(score["image"]["source_sha256"]) <= 2
    plain = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "report", "score.json"],
        cwd=folder,
        env=road.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert len(plain.splitlines()) >= 2


def check_nothing_identifying(road, folder):
    """No name and no number of a patient in anything printed, logged, tracked or written."""
    secrets = [b"Muster", b"MRN00"]
    for text in road.said:
        assert not any(secret.decode() in text for secret in secrets)
    for place in ("dataset", "store", "mlruns", "mlartifacts", "fetched", "scores.parquet"):
        path = folder / place
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                assert not any(secret in content for secret in secrets), file
