"""Writes the pages of docs/reference/ from the code: commands, settings, refusals, errors."""

import argparse
import importlib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_schemas.contract import Contract
from data_schemas.dataset import MANIFEST_COLUMNS, REFUSAL_COLUMNS, REFUSALS
from data_schemas.errors import OUTCOMES
from data_schemas.files import write_text
from data_schemas.plan import Plan
from pipeline.train.plan.rules import RULES, Computed
from pipeline.train.plan.write import as_yaml
from services.cli.main import COMMANDS

HEAD = "<!-- Written by `make docs` from the code; change the code, not this page. -->\n\n"
FOLDER = Path(__file__).parent / "reference"


def commands_page() -> str:
    """Return every command's help as Markdown."""
    parts = ["# Commands\n"]
    for name in COMMANDS:
        module = importlib.import_module(f"services.cli.commands.{name.replace('-', '_')}")
        parser = argparse.ArgumentParser(
            prog=f"hilum {name}",
            description=module.__doc__,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=96),
        )
        module.configure(parser)
        parts.append(f"## hilum {name}\n\n```\n{parser.format_help().strip()}\n```\n")
    return HEAD + "\n".join(parts)


def settings_page() -> str:
    """Return every key of the Plan and the Contract as Markdown tables."""
    plan = _rows(Plan)
    contract = _rows(Contract)
    head = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
    return (
        f"{HEAD}# Settings\n\nA preset in `configs/` overrides a default, a file overrides that, "
        "`--set key=value` overrides all.\n\n"
        f"## Plan (`hilum train`)\n\n{head}{plan}\n\n## Contract (`hilum ingest`)\n\n{head}{contract}\n"
    )


def tables_page() -> str:
    """Return refusals, table columns and error outcomes as Markdown tables."""
    rows = [f"# Files and refusals\n\n## Refusal codes\n\n{_table(REFUSALS, 'code', 'meaning')}"]
    rows.append(f"\n## Columns of manifest.parquet\n\n{_table(MANIFEST_COLUMNS)}")
    rows.append(f"\n## Columns of refusals.parquet\n\n{_table(REFUSAL_COLUMNS)}")
    outcomes = "\n".join(
        f"| {kind.__name__} | {o.http} | 0x{o.dicom:04X} | {o.exit_code} |"
        for kind, o in OUTCOMES.items()
    )
    rows.append(
        "\n## Errors\n\n| error | HTTP | DICOM | exit code |\n| --- | --- | --- | --- |\n"
        + outcomes
    )
    return HEAD + "\n".join(rows) + "\n"


def rules_page() -> str:
    """Return the rules of `hilum plan` as a Markdown table, in the order in which they are tried."""
    lines = ["| key | when | value | kind | why |", "| --- | --- | --- | --- | --- |"]
    above = ""
    for rule in RULES:
        key = "" if rule.key == above else f"`{rule.key}`"
        above = rule.key
        value = rule.value.text if isinstance(rule.value, Computed) else f"`{as_yaml(rule.value)}`"
        # a measured fact keeps its place by its name: {f.train:,} -> {train}
        why = re.sub(r"\{(?:f\.)?(?:chosen\[|of\.)?([a-z_.]+)[^}]*\}", r"{\1}", rule.why)
        lines.append(f"| {key} | {rule.when.text} | {value} | {rule.kind} | {why} |")
    head = (
        "# Rules of the plan\n\nFor each key the rows are tried from top to bottom; the first whose "
        "condition holds decides; `{...}` stands for a measured fact. How they are used: [the plan]"
        "(../plan.md). They stand in `pipeline/train/plan/rules.py`. A key of `beside` without a row "
        "is decided by those of the same key in `network` and `learning`.\n\n"
    )
    return HEAD + head + "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return file name -> content of every generated page."""
    return {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "rules.md": rules_page(),
        "tables.md": tables_page(),
    }


def _table(rows: dict[str, str], left: str = "column", right: str = "meaning") -> str:
    body = "\n".join(f"| `{key}` | {text} |" for key, text in rows.items())
    return f"| {left} | {right} |\n| --- | --- |\n{body}"


def _rows(schema: type[BaseModel], prefix: str = "") -> str:
    lines: list[str] = []
    for name, info in schema.model_fields.items():
        key = f"{prefix}{name}"
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines.append(_rows(inner, f"{key}."))
        else:
            lines.append(
                f"| `{key}` | {_type(info)} | {_default(info)} | {info.description or ''} |"
            )
    return "\n".join(lines)


def _type(info: FieldInfo) -> str:
    kind: Any = info.annotation
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return f"`{text.replace('typing.', '').replace('|', 'or')}`"


def _default(info: FieldInfo) -> str:
    return "required" if info.is_required() else f"`{info.default!r}`"


if __name__ == "__main__":
    for file_name, text in pages().items():
        write_text(FOLDER / file_name, text)
        print(f"docs/reference/{file_name}")
