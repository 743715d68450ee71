"""What the pages say must be so: commands, presets, refusal codes, links, generated pages."""

import re
from pathlib import Path

import pytest

from data_schemas.contract import Contract
from data_schemas.dataset import REFUSALS
from data_schemas.plan import Plan
from services.cli import settings
from services.cli.main import COMMANDS
from services.inference.problems import SERVICE_CODES
from services.inference.settings import PREFIX, ServiceSettings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PRESETS = [
    pytest.param(schema, kind, name, id=f"{kind}/{name}")
    for kind, schema in (("contracts", Contract), ("plans", Plan))
    for name in settings.preset_names(kind)
]
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def ids(path):
    return str(path.relative_to(ROOT))


def generated():
    import importlib.util

    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_is_documented():
    text = "".join(page.read_text() for page in PAGES)
    for name in COMMANDS:
        assert f"hilum {name}" in text


@pytest.mark.parametrize(("schema", "kind", "name"), PRESETS)
def test_every_preset_fits_its_schema(schema, kind, name):
    document = settings.resolve(schema, kind, [name], [])
    assert document.digest()


@pytest.mark.parametrize(
    ("kind", "needed"),
    [("contracts", {"fundus", "any", "medmnist"}), ("plans", {"demo"})],
)
def test_the_presets_that_the_pages_name_exist(kind, needed):
    assert needed <= set(settings.preset_names(kind))


def test_every_refusal_code_is_documented():
    text = (ROOT / "docs" / "reference" / "tables.md").read_text()
    for code, meaning in REFUSALS.items():
        assert f"`{code}`" in text
        assert meaning in text


def test_the_services_page_names_every_code_and_setting():
    text = (ROOT / "docs" / "service.md").read_text()
    for code, (status, _) in SERVICE_CODES.items():
        assert f"| `{code}` | {status} |" in text
    for name in ServiceSettings.model_fields:
        assert f"`{PREFIX}{name.upper()}`" in text


@pytest.mark.parametrize("name", ["commands.md", "settings.md", "rules.md", "tables.md"])
def test_generated_pages_are_as_the_code_is(name):
    page = ROOT / "docs" / "reference" / name
    assert page.read_text() == generated().pages()[name], "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_inside_the_project_lead_somewhere(page):
    broken = []
    for target in _LINK.findall(page.read_text()):
        path = target.partition("#")[0]
        if not path or "://" in target or target.startswith("mailto:"):
            continue
        if not (page.parent / path).exists():
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_in_a_page_is_one(page):
    for block in re.findall(r"^```.*?^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for word in re.findall(r"^\s*(?:\$ )?hilum ([a-z-]+)", block, re.MULTILINE):
            assert word in {*COMMANDS, "help"}
