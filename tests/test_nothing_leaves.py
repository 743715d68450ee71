"""Nothing is sent anywhere that the user did not ask for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.precise import needs_openvino

ROOT = Path(__file__).parents[1]


def test_onnx_runtime_reports_to_nobody(tmp_path):
    """Its telemetry leaves a device identifier and a queue in the home folder once it is on."""
    # it keeps quiet by itself where CI is set
    kept = {"PATH", "LD_LIBRARY_PATH"} & os.environ.keys()
    environment = {name: os.environ[name] for name in kept} | {"HOME": str(tmp_path)}
    program = "import pipeline.model.session, onnxruntime; onnxruntime.get_available_providers()"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("name", "place"),
    [("onnxruntime", "pipeline/model/session.py"), ("openvino", "pipeline/model/vino.py")],
)
def test_a_runtime_is_imported_in_one_place(name, place):
    """Whoever imports it elsewhere might be first, before its telemetry is off."""
    found = [
        str(path.relative_to(ROOT))
        for room in ("pipeline", "services", "data_schemas")
        for path in sorted((ROOT / room).rglob("*.py"))
        if re.search(rf"^\s*(import|from) {name}", path.read_text(), re.MULTILINE)
    ]
    assert found == [place]


@needs_openvino
def test_openvino_finds_nothing_to_report_with(tmp_path):
    """`import openvino` reports to its maker through a package of its own, unless that can't be imported."""
    program = (
        "import pipeline.model.vino, sys; import openvino.tools.ovc.telemetry_utils as u\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert u.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'"
    )
    kept = {"PATH", "LD_LIBRARY_PATH"} & os.environ.keys()
    environment = {name: os.environ[name] for name in kept} | {"HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
