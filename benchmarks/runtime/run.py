"""The bare runtimes at 224 px: CPU milliseconds per image of one thread, one image at a time, beside eager torch.

    python benchmarks/runtime/run.py [ROUNDS [BACKBONE ...]]

ResNet-18 and DenseNet-121 with evidence head and random weights (speed doesn't depend on them; whether a
precision may be used does, and `hilum verify PACKAGE` says that). Variants take turns, each round is three
images; medians, in CPU time of the process with all its threads. The precision is the one read back.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import interleaved, table  # noqa: E402

from data_schemas.card import Card, OperatingPoint, Output  # noqa: E402
from data_schemas.contract import Contract  # noqa: E402
from data_schemas.plan import NetworkPlan  # noqa: E402
from pipeline.model.export import export_package  # noqa: E402
from pipeline.model.graph import Setup  # noqa: E402
from pipeline.model.package import open_package  # noqa: E402
from pipeline.model.quantize import quantise  # noqa: E402
from pipeline.model.session import OnnxGraph  # noqa: E402
from pipeline.model.sums import GRAPH  # noqa: E402
from pipeline.model.vino import OpenVinoGraph  # noqa: E402
from pipeline.train.networks import build  # noqa: E402

SIZE = 224
IMAGES = 3
BACKBONES = ("resnet18", "densenet121")
HEAD = ("network", "runtime", "precision, read back", "ms per image", "times torch")


def card_of(backbone: str, contract: Contract) -> Card:
    """Return a card with one binary question."""
    zeros = "0" * 64
    output = Output(label="finding", classes=("no", "yes"), columns=(0,), positive_classes=(1,))
    point = OperatingPoint(
        label="finding", rule="fixed", low=0.5, high=0.5, images=0, positives=0, sensitivity=0,
        specificity=0,
    )  # fmt: skip
    return Card(
        name="bench", dataset_name="none", dataset_sha256=zeros, contract_name=contract.name,
        contract_sha256=contract.digest(), plan_sha256=zeros, backbone=backbone, parameters=0,
        size=SIZE, channels=3, evidence_stride=32, primary="finding", outputs=(output,),
        operating_points=(point,), onnx_max_logit_difference=0,
    )  # fmt: skip


def rows_of(backbone: str, folder: Path, rounds: int) -> list[tuple[object, ...]]:
    """Measure one network; return the table's rows."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    contract = Contract(name="bench", size=SIZE)
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    network = build(NetworkPlan(backbone=backbone), 1, SIZE).eval()
    export_package(network, images[:2], card_of(backbone, contract), contract, folder)
    graph = open_package(folder).read(GRAPH)
    small = quantise(graph, images)
    setup = Setup((SIZE, SIZE, 3), 1, folder / GRAPH)
    graphs = {
        "ONNX Runtime": OnnxGraph(graph, setup),
        "OpenVINO": OpenVinoGraph(graph, setup, "fp32"),
        "OpenVINO ": OpenVinoGraph(graph, setup, "bf16"),
        "ONNX Runtime ": OnnxGraph(small, setup),
        "OpenVINO  ": OpenVinoGraph(small, setup, "int8"),
    }

    def eager() -> None:
        with torch.inference_mode():
            for image in images[:IMAGES]:
                network(torch.from_numpy(image[None]))

    def asked(name: str) -> Callable[[], None]:
        def run() -> None:
            for image in images[:IMAGES]:
                graphs[name].run(image[None])

        return run

    times = interleaved({"torch eager": eager, **{name: asked(name) for name in graphs}}, rounds)
    first = times["torch eager"]
    precision = {"torch eager": "fp32"} | {name: one.precision for name, one in graphs.items()}
    return [
        (backbone, name.strip(), precision[name], f"{value / IMAGES:.1f}", f"{first / value:.2f}")
        for name, value in times.items()
    ]


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for backbone in sys.argv[2:] or BACKBONES:
            rows += rows_of(backbone, Path(scratch) / backbone, rounds)
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
