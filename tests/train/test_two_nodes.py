"""Two machines train together: two network namespaces, joined by one cable, stand for them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import store
from services.cli.main import main

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "network.backbone": "convnet",
    "network.stride": 8,
    "learning.epochs": 2,
    "learning.batch": 17,
    "threads": 1,
}
pytestmark = [pytest.mark.two_nodes, pytest.mark.slow]


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def nodes():
    """Names and addresses of two namespaces that see each other and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two nodes need root and the `ip` command (Debian: iproute2)")
    own = os.getpid() % 60_000
    names = [f"hilum-{own}-{node}" for node in (0, 1)]
    net = f"10.{77 + own % 100}.{own // 256 % 256}"
    with contextlib.ExitStack() as closing:
        for name in names:
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
            closing.callback(ip, "netns", "del", name)
        ends = [f"h{own}n{node}" for node in (0, 1)]
        try:
            ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1],
               "netns", names[1])  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no virtual network can be made here: {error.stderr.strip()}")
        for node, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "addr", "add", f"{net}.{node + 1}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [
            (name, end, f"{net}.{node + 1}")
            for node, (name, end) in enumerate(zip(names, ends, strict=True))
        ]


@pytest.fixture
def dataset(tmp_path, drawn_dataset):
    """A data set folder with 51 training images."""
    return drawn_dataset(tmp_path, (51, 24, 12), noise=150, bright=30)


def test_two_nodes_reach_the_metrics_of_one_process(
    nodes, dataset, mlflow_uri, tmp_path, monkeypatch, capsys
):
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    words = [
        "train",
        str(dataset),
        "--config",
        os.devnull,
        *sets,
        "--state",
        str(tmp_path / "state"),
        "--json",
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    capsys.readouterr()
    assert main(words) == 0
    alone = json.loads(capsys.readouterr().out)["run_id"]
    children, first = [], nodes[0][2]
    for node, (name, end, address) in enumerate(nodes):
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "GLOO_SOCKET_IFNAME": end,
            "OMP_NUM_THREADS": "1",
        }
        # without is_host and the address, neither node knows itself as the one that is called
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        torchrun += ["--local-addr", address, "--rdzv-backend", "c10d", "--rdzv-id", "hilum"]
        torchrun += ["--rdzv-endpoint", f"{first}:29505", "--rdzv-conf", f"is_host={1 - node}"]
        command = ["ip", "netns", "exec", name, sys.executable, *torchrun]
        command += ["-m", "services.cli.main", *words]
        output = (tmp_path / f"node-{node}.txt").open("w+")
        errors = (tmp_path / f"node-{node}-errors.txt").open("w+")
        child = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=errors)
        children.append((child, output, errors))
    try:
        codes = [child.wait(timeout=240) for child, _, _ in children]
    finally:
        for child, _, _ in children:
            child.kill()
            child.wait()
    said = []
    for _, output, errors in children:
        for file in (output, errors):
            file.seek(0)
            said.append(file.read())
            file.close()
    assert codes == [0, 0], "\n".join(said)[-4000:]
    (answer,) = [json.loads(text) for text in (said[0], said[2]) if text.strip()]
    client = store.open_client(mlflow_uri)
    one, two = (client.get_run(run_id).data.metrics for run_id in (alone, answer["run_id"]))
    names = [name for name in one if name.startswith(("train/", "tune/", "best/"))]
    assert len(names) > 8
    for name in names:
        assert two[name] == pytest.approx(one[name], abs=1e-3), name
    assert client.get_run(answer["run_id"]).info.status == "FINISHED"
