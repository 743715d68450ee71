"""A tiny evidence network with its documents: what training hands to the export, in small."""

import numpy as np
import torch
from torch import nn

from data_schemas.card import Card, OperatingPoint, Output
from data_schemas.contract import Contract

SIZE = 32
CONTRACT = Contract(name="tiny", size=SIZE, channels=3)
BINARY = Output(label="referable", classes=("no", "yes"), columns=(0,), positive_classes=(1,))
SECOND = Output(label="exudates", classes=("no", "yes"), columns=(1,), positive_classes=(1,))
GRADES = Output(
    label="dr_grade",
    classes=("none", "mild", "moderate", "severe", "proliferative"),
    columns=(0, 1, 2, 3, 4),
    positive_classes=(2, 3, 4),
)


class EvidenceNetwork(nn.Module):
    """Two convolutions and a 1x1 head whose mean is the logit."""

    def __init__(self, columns: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=4, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(8, columns, 1)
        with torch.no_grad():
            self.head.weight.mul_(12)

    def forward(self, images):
        features = self.body(images.permute(0, 3, 1, 2).float() / 255 - 0.4)
        evidence = nn.functional.conv2d(features, self.head.weight)
        return evidence.mean((2, 3)) + self.head.bias, evidence, features.mean((2, 3))


def point(label, low=0.4, high=0.6):
    return OperatingPoint(
        label=label,
        rule="test",
        low=low,
        high=high,
        images=10,
        positives=5,
        sensitivity=0.9,
        specificity=0.8,
    )


def card(outputs=(BINARY, SECOND), points=None, contract=CONTRACT, **changes):
    labels = [output.label for output in outputs]
    fields = {
        "name": "tiny",
        "run_id": "0" * 32,
        "dataset_name": "drawn",
        "dataset_sha256": "d" * 64,
        "contract_name": contract.name,
        "contract_sha256": contract.digest(),
        "plan_sha256": "a" * 64,
        "backbone": "two convolutions",
        "parameters": 0,
        "size": contract.size,
        "channels": contract.channels,
        "evidence_stride": 8,
        "outputs": outputs,
        "primary": labels[0],
        "operating_points": tuple(map(point, labels)) if points is None else points,
        "onnx_max_logit_difference": 0.0,
    }
    return Card(**fields | changes)


def images(count=6, seed=0, size=SIZE):
    """Smooth blobs, so that evidence differs from place to place."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return np.ascontiguousarray(coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2))
