"""Several processes that share a batch learn what one process learns from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data_schemas.plan import NetworkPlan
from pipeline.tracking import store
from pipeline.train import networks
from pipeline.train.sync import SharedBatchNorm, share_statistics
from pipeline.train.world import World

ROOT = Path(__file__).parents[2]


class Two(World):
    """A world of two processes whose other one saw the same images."""

    def stacked(self, tensor):
        return torch.stack([tensor, tensor])


def test_alone_nothing_changes():
    network = nn.Sequential(nn.BatchNorm2d(3))
    share_statistics(network, World())
    assert type(network[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_names_weights_and_answers_stay(backbone):
    torch.manual_seed(0)
    plan = NetworkPlan(backbone=backbone, stride=8)
    network = networks.build(plan, 1, 64).eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    before, answer = network.state_dict(), network(images)[0]
    parameters = list(network.parameters())
    share_statistics(network, World(0, 2))
    assert any(isinstance(layer, SharedBatchNorm) for layer in network.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    assert torch.equal(network(images)[0], answer)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_it_is_torch_s_own_where_all_see_the_same(dtype, within):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 4, 5, 5, generator=generator, dtype=dtype) * 3 + 20
    slope = torch.randn(6, 4, 5, 5, generator=generator, dtype=dtype)
    ends = []
    for shared in (False, True):
        layer = nn.BatchNorm2d(4).to(dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(1, 5))
        holder = nn.Sequential(layer)
        if shared:
            share_statistics(holder, Two(0, 2))
        given = maps.clone().requires_grad_()
        found = holder(given)
        (found * slope).sum().backward()
        ends.append([found, given.grad, layer.weight.grad, layer.bias.grad, holder[0].running_mean])
    for own, wanted in zip(ends[1], ends[0], strict=True):
        torch.testing.assert_close(own, wanted, rtol=within, atol=within)


UNEVEN = """
import sys, numpy as np, torch
from torch import nn
from pipeline.train.sync import share_statistics
from pipeline.train.world import close_world, open_world
rank, size, bf16 = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4] == "bf16"
world = open_world("cpu", 1, 0, rank=rank, size=size)
generator = torch.Generator().manual_seed(1)
images = torch.randn(7, 3, 6, 6, generator=generator) * 5 + 9
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3),
                        nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))
share_statistics(network, world)
own = images[rank::size]
for _ in range(3):
    with world.autocast("bf16" if bf16 else "fp32"):
        logits = network(own)
    loss = logits.float().square().mean() * len(own) * size / len(images)
    network.zero_grad()
    loss.backward()
    world.average_gradients(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.01 * parameter.grad
close_world(world)
np.savez(sys.argv[3], **{name: value.detach().numpy()
                         for name, value in network.state_dict().items()})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_4_and_3_images_give_what_7_give(tmp_path, precision, within):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(20000 + (os.getpid() + len(precision) * 7) % 20000)}

    def start(rank, size):
        file = tmp_path / f"{rank}-of-{size}.npz"
        words = [sys.executable, "-c", UNEVEN, str(rank), str(size), str(file), precision]
        return subprocess.Popen(words, env=env), file

    children = [start(0, 1), start(0, 2), start(1, 2)]
    assert [child.wait(timeout=600) for child, _ in children] == [0, 0, 0]
    one, first, second = (np.load(file) for _, file in children)
    for name in one.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], one[name], atol=within, err_msg=name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, drawn_dataset):
    """A data set folder with 51 training images."""
    return drawn_dataset(tmp_path_factory.mktemp("data"), (51, 24, 12), noise=150, bright=30)


SETTINGS = {
    "network.backbone": "convnet",
    "network.stride": 8,
    "learning.epochs": 4,
    "learning.batch": 17,
    "learning.average": 0.9,
    "augmentation.noise": 0.02,
    "threads": 1,
}


@pytest.mark.slow
def test_two_processes_reach_the_metrics_of_one(dataset, mlflow_uri, tmp_path):
    """The same global batch of 17: 9 and 8 images. Dropout, drawn by each process, is off."""
    env = {**os.environ, "MLFLOW_TRACKING_URI": mlflow_uri, "PYTHONPATH": str(ROOT)}
    env["OMP_NUM_THREADS"] = "1"
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    words = [
        "-m",
        "services.cli.main",
        "train",
        str(dataset),
        "--config",
        os.devnull,
        *sets,
        "--json",
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for start in ([], torchrun):
        command = [sys.executable, *start, *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout)["run_id"])
    client = store.open_client(mlflow_uri)
    runs = [client.get_run(run_id).data.metrics for run_id in found]
    names = [name for name in runs[0] if name.startswith(("train/", "tune/", "best/"))]
    assert len(names) > 8
    for name in names:
        one, two = (
            [(entry.step, entry.value) for entry in client.get_metric_history(run_id, name)]
            for run_id in found
        )
        np.testing.assert_allclose(two, one, atol=1e-3, err_msg=name)
