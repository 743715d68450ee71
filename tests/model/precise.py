"""A tiny package whose card has rows for every precision of this machine, and that holds an 8-bit graph."""

import importlib.util

import pytest

from data_schemas.errors import UsageError
from pipeline.model.export import export_package
from pipeline.model.export_check import RealImages
from pipeline.model.kinds import Kind
from pipeline.model.package import open_package
from pipeline.model.quantize import with_int8
from pipeline.model.runtime import Runtime
from tests.model import tiny_network as tiny

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs the extra `openvino`"
)


def write_precise(folder, contract=tiny.CONTRACT, **changes):
    """Write the package to ``folder/package`` by way of one without an 8-bit graph, ``folder/plain``."""
    size = contract.size
    real = RealImages(tiny.images(40, seed=5, size=size), "tune")
    drawn = tiny.images(4, size=size)
    card = tiny.card(contract=contract, **changes)
    export_package(tiny.EvidenceNetwork(2), drawn, card, contract, folder / "plain", real)
    return with_int8(
        open_package(folder / "plain"),
        tiny.images(16, seed=7, size=size),
        tiny.images(40, seed=9, size=size),
        "calibration",
        folder / "package",
    )


def opened(package, runtime, precision, **options):
    """Return a runtime, or skip where this processor can't do the precision."""
    try:
        return Runtime(package, kind=Kind(runtime, precision), **options)
    except UsageError as error:
        pytest.skip(f"needs a processor for {precision}: {error.what}")
