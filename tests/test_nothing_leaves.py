"""Nothing is sent anywhere that the user did not ask for."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_onnx_runtime_is_imported_in_one_place():
    """Whoever imports it elsewhere might be first, before its telemetry is off."""
    found = [
        str(path.relative_to(ROOT))
        for room in ("pipeline", "services", "data_schemas")
        for path in sorted((ROOT / room).rglob("*.py"))
        if re.search(r"^\s*(import|from) onnxruntime", path.read_text(), re.MULTILINE)
    ]
    assert found == ["pipeline/model/session.py"]
