"""The speed benchmarks: what they count is right, and one command ends in a clear answer anywhere."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu_train():
    """The script as a module, with its neighbours."""
    file = ROOT / "benchmarks/gpu_train/run.py"
    spec = importlib.util.spec_from_file_location("gpu_train_run", file)
    module = importlib.util.module_from_spec(spec)
    kept = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = kept
    return module


def test_operations_are_counted_as_published(gpu_train):
    """ResNet-18 at 224 px: 1.814 billion multiply-adds forward (torchvision's model page)."""
    network = gpu_train.Case("resnet18", 224, 2, 2).network()
    both = gpu_train.measure.gflop_per_image(network, 224)
    forward = 2 * 1.814
    # backward costs twice the forward pass, but the first layer needs no gradient of the pixels
    first = 2 * 64 * 3 * 49 * 112**2 / 1e9
    assert both == pytest.approx(3 * forward - first, rel=0.01)


def test_the_roofline_is_speed_times_operations(gpu_train):
    found = gpu_train.Found("our loop", 1000.0, 10.0, 0.015, float("nan"), 2.25)
    assert found.tflops == 10.0
    (row,) = gpu_train.rows_of([found], 40.0)
    assert row == ("our loop", "1000", "–", "1.5", "10.00", "25.0", "2.2")


def test_the_command_runs_where_a_processor_stands_for_the_gpu(gpu_train, capsys):
    words = ["--device", "cpu", "--network", "convnet", "--size", "28", "--batch", "16"]
    threads = torch.get_num_threads()
    assert gpu_train.main([*words, "--images", "32", "--seconds", "0.1", "--no-compile"]) == 0
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if "network alone" in line]
    rows += [line.split(" | ") for line in printed.splitlines() if "our loop" in line]
    assert [row[0].strip("| ") for row in rows] == ["network alone", "our loop"]
    assert all(float(row[1]) > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so():
    command = [sys.executable, str(ROOT / "benchmarks/gpu_train/run.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 77
    assert done.stderr.strip().endswith("nothing was measured")
    assert done.stdout == ""


def test_rounds_are_compared_with_their_neighbours():
    sys.path.insert(0, str(ROOT / "benchmarks/train"))
    try:
        spec = importlib.util.spec_from_file_location("train_run", ROOT / "benchmarks/train/run.py")
        module = importlib.util.module_from_spec(spec)
        kept = list(sys.path)
        spec.loader.exec_module(module)
        sys.path[:] = kept
    finally:
        sys.path.pop(0)
    times_of = sys.modules["turns"].Times
    # the machine was three times slower in the last round: the ratio doesn't notice
    slow, fast = times_of(cpu=[2.0, 2.2, 6.0]), times_of(cpu=[1.0, 1.1, 3.0])
    assert module.ratio(slow, fast) == pytest.approx(2.0)
    verdicts = module.Verdicts()
    verdicts.at_least("speed", 2.0, 2.2)
    verdicts.at_most("waiting", 1.0, 2.0)
    assert [row[-1] for row in verdicts.rows] == ["MISSED", "reached"]
    assert verdicts.missed == 1
    assert np.isfinite(module.BARS["augmentation"])
