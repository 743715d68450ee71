"""The networks that the serving benchmarks share: trained on real photographs once, then kept in a folder.

Label: which eye it is, by the side of the optic disc. Two epochs from random weights learn it, so that
a verdict means something; what a serving benchmark needs is probabilities on both sides of a threshold.
"""

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.contract import Contract

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = ROOT / "../shared/data/fundus_rahim"
NETWORKS = ("resnet18", "densenet121")
CONTRACT = Contract(name="eye-side", size=224)
SMALL = 112
EPOCHS, BATCH, RATE = 2, 16, 2e-3
TEST_FROM = 240
"""Patients from this number on are not trained on; what is compared comes from them."""


def card_of(backbone: str) -> Card:
    """Return the card of one of the networks, or of one with random weights."""
    zeros = "0" * 64
    point = OperatingPoint(
        label="right eye", rule="fixed", low=0.5, high=0.5, images=0, positives=0, sensitivity=0,
        specificity=0,
    )  # fmt: skip
    classes = ("left", "right")
    output = Output(label="right eye", classes=classes, columns=(0,), positive_classes=(1,))
    return Card(
        name=f"eye-side-{backbone}", dataset_name="none", dataset_sha256=zeros,
        contract_name=CONTRACT.name, contract_sha256=CONTRACT.digest(), plan_sha256=zeros,
        backbone=backbone, parameters=0, size=224, channels=3, evidence_stride=32,
        primary="right eye", outputs=(output,), operating_points=(point,),
        onnx_max_logit_difference=0,
    )  # fmt: skip


def export_random(folder: Path, backbone: str = "resnet18") -> Path:
    """Export a network with random weights: enough where only speed is looked at."""
    import torch

    from data_schemas.plan import NetworkPlan
    from pipeline.model.export import export_package
    from pipeline.train.networks import build

    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    network = build(NetworkPlan(backbone=backbone), 1, 224).eval()
    export_package(network, images, card_of(backbone), CONTRACT, folder)
    return folder


def photographs(*, test: bool) -> list[tuple[Path, int]]:
    """Return (file, 1 for a right eye) of the patients that were trained on, or of the others."""
    with (PHOTOGRAPHS / "labels.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["conflict"] == "0"]
    return [
        (PHOTOGRAPHS / row["image"], int(row["laterality_disc"] == "R"))
        for row in rows
        if (int(row["patient"].removeprefix("Patient")) > TEST_FROM) == test
    ]


def prepared(files: list[tuple[Path, int]]) -> tuple[np.ndarray, np.ndarray]:
    from pipeline.imaging.prepare import prepare
    from pipeline.imaging.read import read

    pixels = [prepare(read(file.read_bytes(), CONTRACT), CONTRACT).pixels for file, _ in files]
    return np.stack(pixels), np.array([label for _, label in files], np.float32)


def trained(out: Path, backbone: str) -> Path:
    """Return the folder of a trained network's package; the first call trains it (minutes)."""
    folder = out / backbone
    if (folder / "package").is_dir():
        return folder / "package"
    import torch

    from data_schemas.plan import NetworkPlan
    from pipeline.model.export import export_package
    from pipeline.train.networks import build

    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = prepared(photographs(test=False))
    network = build(NetworkPlan(backbone=backbone), 1, 224)
    small = np.stack([_half(image) for image in images])
    print(f"training {backbone} on {len(images)} photographs", flush=True)
    _fit(network, small, labels)
    _settle(network, images[:240], labels[:240])
    unseen, truth = prepared(photographs(test=True))
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(unseen))[0][:, 0].numpy()
    right = float(((logits > 0) == (truth > 0.5)).mean())
    print(
        f"{backbone}: {right:.3f} of {len(truth)} photographs of other patients right", flush=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accuracy.json").write_text(json.dumps({"right": right, "photographs": len(truth)}))
    export_package(network, unseen[:8], card_of(backbone), CONTRACT, folder / "package")
    return folder / "package"


def reduced(out: Path, backbone: str) -> Path:
    """Return the same package with an 8-bit graph and a row in its card for each precision."""
    folder = out / backbone / "package-reduced"
    if not folder.is_dir():
        from pipeline.model.package import open_package
        from pipeline.model.quantize import with_int8

        package = open_package(trained(out, backbone))
        calibration, _ = prepared(photographs(test=False)[:64])
        measured, _ = prepared(photographs(test=True))
        with_int8(package, calibration, measured, "tune", folder)
    for row in Card.read_json(folder / "card.json").checks:
        print(
            f"{row.precision}: {row.changed_verdicts} of {row.images} verdicts changed,"
            f" largest |dp| {row.max_probability_difference:.4f}"
        )
    return folder


def _half(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SMALL, SMALL), Image.Resampling.BOX))


def _fit(network, images: np.ndarray, labels: np.ndarray) -> None:
    """Two epochs on the pictures at half size."""
    import torch

    network.train()
    steps = EPOCHS * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    chance = np.random.default_rng(0)
    order = np.concatenate([chance.permutation(len(images)) for _ in range(EPOCHS)])
    for step in range(steps):
        few = order[step * BATCH : (step + 1) * BATCH]
        mirrored = chance.random(BATCH) < 0.5
        # a mirrored right eye is a left one
        pixels = np.where(mirrored[:, None, None, None], images[few][:, :, ::-1], images[few])
        truth = np.where(mirrored, 1 - labels[few], labels[few]).astype(np.float32)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.from_numpy(np.ascontiguousarray(pixels)))[0][:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.float(), torch.from_numpy(truth)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"  loss {loss.item():.3f}", flush=True)


def _settle(network, images: np.ndarray, labels: np.ndarray) -> None:
    """Fit the norms' statistics and the head anew at the full size."""
    import torch

    batches = torch.from_numpy(images).split(BATCH)
    with torch.no_grad():
        for batch in batches:
            network(batch)
        network.eval()
        embedding = torch.cat([network(batch)[2] for batch in batches])
    weights = network.head.weight.detach()[:, :, 0, 0].clone().requires_grad_()
    bias = network.bias.detach().clone().requires_grad_()
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=100)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = (embedding @ weights.T + bias)[:, 0]
        found = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(labels)
        )
        found = found + 1e-3 * weights.square().sum()
        found.backward()
        return found

    optimiser.step(loss)
    with torch.no_grad():
        network.head.weight.copy_(weights[:, :, None, None])
        network.bias.copy_(bias)


def jpeg_of(image: Image.Image, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
