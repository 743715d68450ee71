"""compose.yaml: valid, locked down, and its own commands, run as processes, carry a model from files to scores."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from services.inference.settings import ServiceSettings
from tests.container.compose_processes import POSTGRES, ROOT, Stack, compose
from tests.road.test_road import PLAN, SPLITS, draw_cohort

VALUES = {
    "POSTGRES_PASSWORD": "a-secret-of-tests",
    "S3_ACCESS_KEY": "stack",
    "S3_SECRET_KEY": "another-secret-of-tests",
    "HILUM_PSEUDONYM_KEY": "0123456789abcdef",
}


def services():
    return compose(VALUES)


def test_it_is_a_compose_file():
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema (the extra `dev`)")
    words = ["--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_secret_must_be_given_and_stands_in_the_example():
    example = (ROOT / "deploy/compose.env.example").read_text().splitlines()
    assert {line[:-1] for line in example if line.endswith("=")} == set(VALUES)
    for name in VALUES:
        with pytest.raises(KeyError, match=f"set {name}"):
            compose({key: value for key, value in VALUES.items() if key != name})
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", list(services()))
def test_every_service_is_locked_down(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert service["pids_limit"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "build" not in service
    for secret in VALUES.values():  # everyone on a machine can read command lines
        assert not any(secret in word for word in service.get("command", []))


def test_the_service_is_the_one_that_the_image_expects():
    service = services()["service"]
    user = "10001:10001"
    assert service["user"] == services()["batch"]["user"] == user
    assert service["mem_limit"] == "1g"
    assert "/readyz" in service["healthcheck"]["test"][-1]
    assert int(service["stop_grace_period"][:-1]) > ServiceSettings().drain_seconds
    fields = {f"HILUM_{name.upper()}" for name in ServiceSettings.model_fields}
    assert {name for name in service["environment"] if name.startswith("HILUM_")} <= fields


def test_the_tracking_server_is_as_mlflow_needs_it():
    given = services()["tracking"]["environment"]
    assert given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    address = services()["service"]["environment"]["MLFLOW_TRACKING_URI"]
    assert address.removeprefix("http://") in given["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert services()["tracking"]["init"] is True


def stop_short(reason):
    """Skip, but fail where the container tests are promised."""
    if os.environ.get("CI_CONTAINER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def stack():
    """Database, store and tracking server of compose.yaml, running."""
    for program in ("rclone", "runuser"):
        beside = Path(sys.executable).with_name(program)
        if not beside.exists() and shutil.which(program) is None:
            stop_short(f"needs {program}")
    if not POSTGRES.is_dir() or os.geteuid() != 0:
        stop_short("needs PostgreSQL's programs, and root to run them as another user")
    folder = Path(tempfile.mkdtemp(prefix="hilum-stack-"))
    folder.chmod(0o755)  # PostgreSQL's user passes through
    stack = Stack(folder, VALUES)
    try:
        stack.start_database()
        stack.start("store")
        stack.start("tracking")
        stack.healthy("tracking")
        yield stack
    finally:
        stack.close()
        shutil.rmtree(folder)


def ask(port, path, body=None, **headers):
    """Return status and body of an answer from this machine, asked without a proxy."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def check_names(port):
    """Compose's own name of the server is let in, another isn't."""
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert ask(port, search, Host="tracking:5000")[0] == 200
    assert ask(port, search, Host="elsewhere.example")[0] == 403


@pytest.mark.slow
def test_train_register_serve_promote_score(stack):
    check_names(stack.ports["tracking"])
    labels = draw_cohort(stack.folder / "photos/files")
    (stack.folder / "work/plan.yaml").write_text(PLAN)
    contract = ["--contract", "fundus", "--set", "size=64", "--set", "quality.check=false"]
    made = ["--labels", f"/photos/{labels.name}", "--out", "dataset", "--json"]
    stack.job("training", ["ingest", "/photos/files", *made, *contract])

    def learned(seed):
        trained = stack.services["training"]["command"]
        words = ["--config", "plan.yaml", "--set", f"seed={seed}", "--json"]
        run = json.loads(stack.job("training", [*trained, *words]))["run_id"]
        stack.job("training", ["evaluate", run, "--dataset", "dataset"])
        return run

    def promoted(run):
        words = ["register", run, "--name", "fundus", "--alias", "champion", "--json"]
        return json.loads(stack.job("training", words))["package_sha256"]

    first = promoted(learned(3))
    assert list((stack.folder / "store/mlflow/artifacts").rglob("model.onnx"))
    photograph = (stack.folder / "photos/files/000.dcm").read_bytes()

    def served():
        stack.start("service")
        stack.healthy("service")
        status, body = ask(stack.ports["service"], "/v1/scores", photograph)
        assert status == 200, body
        return json.loads(body)

    answer = served()
    assert answer["model"]["package_sha256"] == first
    assert answer["model"]["version"] == "1"
    assert stack.stop("service") == 0, stack.told("service")
    second = promoted(learned(4))
    assert second != first
    answer = served()
    assert answer["model"]["version"] == "2"

    shutil.copytree(stack.folder / "photos/files", stack.folder / "images", dirs_exist_ok=True)
    assert "files by fundus 2" in stack.job("batch")
    rows = pq.read_table(stack.folder / "scores/scores.parquet").to_pylist()
    assert len(rows) == 2 * len(SPLITS) + 4
    assert {row["package_sha256"] for row in rows} == {second}
    [row] = [row for row in rows if row["file"].endswith("/000.dcm")]
    assert row["logits"] == pytest.approx(answer["logits"], abs=1e-5)
    assert row["verdict"] == answer["verdict"]
    assert stack.stop("service") == 0


def test_the_file_says_how_it_is_used():
    text = (ROOT / "compose.yaml").read_text()
    tree = yaml.safe_load(text)
    head = text.partition("\nname:")[0]
    for name in ("training", "batch"):
        assert f"run --rm {name}" in head
    for profile in ("serve",):
        assert f"--profile {profile}" in head
        assert profile in tree["services"]["service"]["profiles"]
