"""A package whose evidence finds bright spots, exported once per session."""

import pytest
import torch
from torch import nn

from pipeline.model.export import export_package
from pipeline.model.package import open_package
from tests.model import tiny_network as tiny


class SpotNetwork(nn.Module):
    """Evidence is how bright a cell of 4 x 4 pixels is: it points where the spot is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.head = nn.Conv2d(4, 1, 1)
        with torch.no_grad():
            self.body.weight.zero_()
            self.body.weight[:, :, 1, 1] = torch.tensor([1.0, 2.0, 3.0, 0.0])[:, None]
            self.body.bias.zero_()
            self.head.weight.copy_(torch.tensor([8.0, 4.0, 2.0, -9.0]).reshape(1, 4, 1, 1))
            self.head.bias.fill_(-1.5)

    def forward(self, images):
        features = torch.relu(self.body(images.permute(0, 3, 1, 2).float() / 255))
        evidence = nn.functional.conv2d(features, self.head.weight)
        return evidence.mean((2, 3)) + self.head.bias, evidence, features.mean((2, 3))


@pytest.fixture(scope="session")
def spot_package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spot") / "package"
    card = tiny.card(outputs=(tiny.BINARY,), points=(tiny.point("referable", 0.5, 0.5),))
    export_package(SpotNetwork(), tiny.images(), card, tiny.CONTRACT, folder)
    return open_package(folder)
