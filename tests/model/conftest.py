"""Exported once per session: the export takes seconds, the tests read it only."""

import pytest

from pipeline.model.export import export_package
from pipeline.model.package import open_package
from tests.model import tiny_network as tiny
from tests.model.precise import write_precise


@pytest.fixture(scope="session")
def binary_package(tmp_path_factory):
    """Two binary labels, sigmoid each."""
    folder = tmp_path_factory.mktemp("binary") / "package"
    export_package(tiny.EvidenceNetwork(2), tiny.images(), tiny.card(), tiny.CONTRACT, folder)
    return open_package(folder)


@pytest.fixture(scope="session")
def grades_package(tmp_path_factory):
    """One label of five classes, softmax."""
    folder = tmp_path_factory.mktemp("grades") / "package"
    card = tiny.card(outputs=(tiny.GRADES,))
    export_package(tiny.EvidenceNetwork(5, seed=3), tiny.images(), card, tiny.CONTRACT, folder)
    return open_package(folder)


@pytest.fixture(scope="session")
def precise_package(tmp_path_factory):
    """Two binary labels, an 8-bit graph, and evidence for every precision of this machine."""
    return write_precise(tmp_path_factory.mktemp("precise"))
