"""Exported once per session: the export takes seconds, the tests read it only."""

import pytest

from data_schemas.contract import Accept, Contract, Quality
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


@pytest.fixture(scope="session")
def fundus_contract():
    """For colour photographs of the retina, with a check of their quality."""
    return Contract(
        name="fundus",
        accept=Accept(colour="required", modalities=("OP", "XC")),
        region="fundus_field",
        quality=Quality(check=True, min_brightness=80.0),
        size=tiny.SIZE,
    )


@pytest.fixture(scope="session")
def fundus_package(fundus_contract, tmp_path_factory):
    """Two binary labels under that contract."""
    folder = tmp_path_factory.mktemp("fundus") / "package"
    card = tiny.card(contract=fundus_contract)
    export_package(tiny.EvidenceNetwork(2), tiny.images(), card, fundus_contract, folder)
    return open_package(folder)
