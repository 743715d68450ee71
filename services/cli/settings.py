"""Finds presets and user files and resolves them into one document: the door's half of the settings road."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from data_schemas import settings
from data_schemas.errors import UsageError

Schema = TypeVar("Schema", bound=BaseModel)


def preset_names(kind: str) -> list[str]:
    """Return the names of the presets in ``configs/<kind>/``."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder(kind).glob("*.yaml"))


def layer_of(kind: str, name_or_file: str) -> settings.Layer:
    """Return a preset (by its name) or a user's YAML file as a layer.

    Raises
    ------
    UsageError
        If it is neither a preset nor a file.
    ConfigError
        If the file can't be read as settings.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return settings.from_file(path)
    if name_or_file not in preset_names(kind):
        raise UsageError(
            f"`{name_or_file}` is neither a file nor a preset of {kind}",
            mend=f"presets: {', '.join(preset_names(kind))}",
        )
    return settings.from_file(_folder(kind) / f"{name_or_file}.yaml")


def resolve(
    schema: type[Schema], kind: str, names_or_files: list[str], assignments: list[str]
) -> Schema:
    """Resolve presets and files, in order, then ``--set`` words, into one checked document."""
    return settings.resolve(schema, layers_of(kind, names_or_files, assignments))


def layers_of(kind: str, names_or_files: list[str], assignments: list[str]) -> list[settings.Layer]:
    """Return presets and files, in order, then ``--set`` words, as layers of settings."""
    layers = [layer_of(kind, item) for item in names_or_files]
    return [*layers, settings.from_assignments(assignments)]


def tracking_uri() -> str:
    """Return where runs are tracked: ``$MLFLOW_TRACKING_URI``, or mlflow.db in the current folder.

    The address of a file is made absolute: it is printed, logged and handed to other processes.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    relative = given.removeprefix("sqlite:///")
    if not given:
        return f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    if relative != given and not relative.startswith("/"):
        return f"sqlite:///{Path.cwd() / relative}"
    return given


def _folder(kind: str) -> Path:
    # configs/ lies beside the packages, in the tree and in an installed environment alike
    return Path(__file__).resolve().parents[2] / "configs" / kind
