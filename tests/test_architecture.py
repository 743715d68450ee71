"""The house's rules that no linter sees: what a fresh interpreter imports, how files look."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("data_schemas", "pipeline", "services", "docs", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
TRAINING = {"torch", "torchvision", "monai", "timm", "cv2", "mlflow", "tensorboard", "lightning"}
PLOTTING = {"matplotlib", "scipy", "sklearn", "pandas"}
SERVED = TRAINING | PLOTTING
ALLOWED_HEAVY: dict[str, set[str]] = {
    "services.inference.app": set(),
    "services.inference.server": set(),
    "pipeline.imaging.read": set(),
    "pipeline.imaging.prepare": set(),
    "pipeline.imaging.picture": set(),
    "pipeline.model.package": set(),
    "pipeline.model.runtime": set(),
    "pipeline.model.opening": set(),
    "pipeline.model.session": set(),
    "pipeline.model.decision": set(),
    "pipeline.model.scoring": set(),
    "pipeline.ingest.ingest": set(),
    "pipeline.ingest.store": set(),
    "pipeline.report.write": set(),
    "pipeline.report.read": set(),
    "pipeline.tracking.registry": {"pandas"},
    "pipeline.evaluate.evaluate": {"scipy", "matplotlib", "pandas"},
}
"""Served module -> what of SERVED it may nevertheless import."""

AT_THE_DOOR = SERVED | {"numpy", "pyarrow", "onnxruntime", "pydicom", "fastapi", "uvicorn", "PIL"}
"""What must not be imported before a command runs."""


def imported_by(code: str) -> set[str]:
    """Return the top-level modules in ``sys.modules`` after ``code`` in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("module", ALLOWED_HEAVY)
def test_served_modules_import_nothing_of_training(module):
    heavy = imported_by(f"import {module}") & SERVED
    assert heavy <= ALLOWED_HEAVY[module]


def test_commands_import_nothing_heavy_before_they_run():
    names = [f"services.cli.commands.{name.replace('-', '_')}" for name in COMMANDS]
    assert not imported_by(f"import {', '.join(names)}") & AT_THE_DOOR


def test_help_imports_no_command_and_nothing_heavy():
    code = "import services.cli.main as m\nassert m.main(['--help']) == 0"
    modules = imported_by(code)
    assert not modules & (AT_THE_DOOR | {"pydantic", "yaml"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_for_and_is_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    tree = ast.parse(text)
    said = ast.get_docstring(tree)
    assert said, "no docstring at the top"
    assert text.startswith(('"""', "#!"))
    assert len(said.splitlines()[0]) > 10


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if p.name == "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_init_is_one_docstring(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def test_configs_hold_yaml_only():
    kinds = {path.suffix for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert kinds <= {".yaml", ".py", ".pyc"}
    for path in (ROOT / "configs").rglob("*.py"):
        assert path.name == "__init__.py"


def reads_of_the_environment(tree):
    """Yield the lines that read the environment; `setdefault`, a library's switch, only writes it."""
    written = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "setdefault"
    }
    for node in ast.walk(tree):
        read = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
        if read and id(node) not in written:
            yield node.lineno


def test_no_room_reads_the_environment_below_the_door():
    doors = ("services/cli/", "services/inference/settings.py")
    faults = []
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if place.startswith((*doors, "tests/", "benchmarks/", "docs/")):
            continue
        lines = reads_of_the_environment(ast.parse(path.read_text(encoding="utf-8")))
        faults += [f"{place}:{line}" for line in lines]
    assert faults == []
