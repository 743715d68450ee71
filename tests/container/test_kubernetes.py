"""deploy/kubernetes: valid against Kubernetes' own schemas, locked down, and speaking of what hilum has."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from services.cli.main import main
from services.inference.figures import Figures
from services.inference.settings import ServiceSettings
from tests.container.test_dockerfile import DEPLOY, ROOT, last

FOLDER = DEPLOY / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


def documents():
    return [tree for file in FILES for tree in yaml.safe_load_all(file.read_text())]


def of_kind(kind, name=""):
    return [
        tree
        for tree in documents()
        if tree["kind"] == kind and name in ("", tree["metadata"]["name"])
    ]


def workloads():
    return {tree["metadata"]["name"]: tree for tree in of_kind("Deployment") + of_kind("Job")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_valid(file):
    pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate (the extra `dev`)")
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_is_there():
    assert set(workloads()) == {"hilum", "hilum-batch", "hilum-training"}
    kinds = {tree["kind"] for tree in documents()}
    assert {"Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"} <= kinds


@pytest.mark.parametrize("name", list(workloads()))
def test_a_workload_is_locked_down(name):
    pod = workloads()[name]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    target = "train" if name == "hilum-training" else "serve"
    assert f"{pod['securityContext']['runAsUser']}:10001" == last(target, "USER")
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"].startswith(f"registry.example/hilum-{target}:")
    assert container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"]["cpu"]
    assert pod["automountServiceAccountToken"] is False
    # a Service called hilum would otherwise set HILUM_PORT to tcp://... in every pod
    assert pod["enableServiceLinks"] is False
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_service_is_probed_and_found():
    [deployment] = of_kind("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["terminationGracePeriodSeconds"] > ServiceSettings().drain_seconds
    assert f"{container['ports'][0]['containerPort']}" == last("serve", "EXPOSE")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for tree in (*of_kind("Service"), *of_kind("PodDisruptionBudget")):
        selector = tree["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert wanted.items() <= labels.items()
        # neither job's pods are asked for scores
        for job in of_kind("Job"):
            assert not wanted.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    fields = {f"HILUM_{name.upper()}" for name in ServiceSettings.model_fields}
    assert {e["name"] for e in container["env"] if e["name"].startswith("HILUM_")} <= fields


def test_the_autoscaler_asks_for_a_figure_that_there_is():
    [scaler] = of_kind("HorizontalPodAutoscaler")
    [deployment] = of_kind("Deployment")
    aim = scaler["spec"]["scaleTargetRef"]
    assert (aim["kind"], aim["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert (
        "replicas" not in deployment["spec"]
    )  # else every update would undo the autoscaler's work
    [metric] = scaler["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    families = {family.name for family in Figures().registry.collect()}
    assert name in families
    assert int(metric["pods"]["target"]["averageValue"]) < ServiceSettings().queue
    [rules] = of_kind("ConfigMap")
    [rule] = yaml.safe_load(rules["data"]["config.yaml"])["rules"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(f"{name}{{")


@pytest.mark.parametrize("name", ["hilum-batch", "hilum-training"])
def test_a_job_runs_a_command_that_there_is(name, capsys):
    [container] = workloads()[name]["spec"]["template"]["spec"]["containers"]
    words = [*container["command"], *container["args"]]
    if words[:2] == ["sh", "-c"]:
        line = next(line for line in words[2].splitlines() if line.startswith("exec "))
        words = shlex.split(line)[1:]
    assert words[0] == "hilum"
    with pytest.raises(SystemExit):
        main([words[1], "--help"])
    flags = {re.match(r"--[\w-]+", word)[0] for word in words if word.startswith("--")}
    told = capsys.readouterr().out
    assert all(flag in told for flag in flags)


def test_the_training_job_goes_on_with_what_a_killed_pod_left(tmp_path):
    [container] = workloads()["hilum-training"]["spec"]["template"]["spec"]["containers"]
    assert container["workingDir"] in {mount["mountPath"] for mount in container["volumeMounts"]}
    script = container["args"][0].replace("exec hilum", "exec echo")

    def said():
        return subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert "--resume" not in said()
    (tmp_path / "state/0123").mkdir(parents=True)
    assert said().split()[-1] == "--resume=last"
