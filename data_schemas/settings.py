"""The one road of a configuration value: schema default < preset < user's file < ``--set``.

:func:`resolve` merges the layers, checks the result against its schema and reports every fault at
once, each with the file and line it came from. Nothing below the door calls this.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from data_schemas.errors import ConfigError, Fault

if TYPE_CHECKING:
    import yaml  # below, where it is used: whoever has no file (a service) starts without it

Schema = TypeVar("Schema", bound=BaseModel)
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Layer:
    """One source of settings: a tree of plain values, and the place of every key in it."""

    tree: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)


def from_file(path: Path) -> Layer:
    """Read a YAML file, keeping the line of every key.

    Raises
    ------
    ConfigError
        If the file is missing, isn't YAML, isn't a mapping, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError([Fault(str(path), "", "no such settings file")]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Fault(str(path), "", f"can't be read: {error}")]) from error
    return from_text(text, str(path))


def from_text(text: str, name: str) -> Layer:
    """Parse YAML text; ``name`` stands for the file in places. Raises as :func:`from_file`."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError([Fault(where, "", f"is not YAML: {error.problem}")]) from error
    except yaml.YAMLError as error:  # characters that YAML doesn't allow
        raise ConfigError([Fault(name, "", f"is not YAML: {error}")]) from error
    if root is None:
        return Layer({})
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([Fault(f"{name}:1", "", "must be a mapping of key: value")])
    places: dict[Key, str] = {}
    faults: list[Fault] = []
    _note_places(root, (), name, places, faults)
    tree: dict[str, Any] = {}
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-99-99
        faults.append(Fault(name, "", f"is not plain YAML: {error}"))
    if faults:
        raise ConfigError(faults)
    return Layer(tree, places)


def from_assignments(assignments: list[str]) -> Layer:
    """Turn ``a.b=value`` words (values as YAML) into a layer.

    Raises
    ------
    ConfigError
        For each word that is not ``key=value``, or whose value isn't YAML.
    """
    import yaml

    tree: dict[str, Any] = {}
    places: dict[Key, str] = {}
    faults: list[Fault] = []
    for word in assignments:
        name, equals, text = word.partition("=")
        where = f"--set {word}"
        if not equals or not all(name.split(".")):
            faults.append(Fault(where, "", "must be key=value, as in network.backbone=resnet18"))
            continue
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            faults.append(Fault(where, name, f"{text!r} is not a YAML value"))
            continue
        key: Key = tuple(name.split("."))
        for part in reversed(key):
            value = {part: value}
        tree = _merged(tree, value)
        places[key] = where
    if faults:
        raise ConfigError(faults)
    return Layer(tree, places)


def resolve(schema: type[Schema], layers: list[Layer]) -> Schema:
    """Merge ``layers`` (later ones win) and validate the result.

    Raises
    ------
    ConfigError
        With every fault as ``file:line: key: what is wrong, what would be right``.
    """
    tree: dict[str, Any] = {}
    places: dict[Key, str] = {}
    for layer in layers:
        tree = _merged(tree, layer.tree)
        places |= layer.places
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = [_fault(item, schema, places) for item in error.errors()]
        raise ConfigError(faults) from error


def to_yaml(document: BaseModel) -> str:
    """Return a resolved document as YAML text in the schema's order, ready to be read again."""
    import yaml

    tree = document.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None)


def flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings as one level of dotted names, as MLflow's parameters want them."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{above}{key}.")
        else:
            leaves[f"{above}{key}"] = value
    return leaves


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _note_places(
    node: "yaml.Node", key: Key, name: str, places: dict[Key, str], faults: list[Fault]
) -> None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            word = str(key_node.value)
            where = f"{name}:{key_node.start_mark.line + 1}"
            inner = (*key, word)
            if word in seen:
                faults.append(Fault(where, _dotted(inner), "stands twice in this file"))
            seen.add(word)
            places[inner] = where
            _note_places(value_node, inner, name, places, faults)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            places[(*key, index)] = f"{name}:{item.start_mark.line + 1}"
            _note_places(item, (*key, index), name, places, faults)


def _fault(item: Any, schema: type[BaseModel], places: dict[Key, str]) -> Fault:
    key: Key = tuple(item["loc"])
    where = next(
        (places[key[:length]] for length in range(len(key), 0, -1) if key[:length] in places),
        "settings",
    )
    what = str(item["msg"])
    what = what[0].lower() + what[1:]
    if item["type"] == "extra_forbidden":
        what = f"is not a known key{_nearest(key, schema)}"
    elif item["type"] == "missing":
        what = "is missing"
    else:
        what = f"{what}, got {item['input']!r}"
    return Fault(where, _dotted(key), what)


def _nearest(key: Key, schema: type[BaseModel]) -> str:
    known = _keys_at(key[:-1], schema)
    near = difflib.get_close_matches(str(key[-1]), known, n=1)
    if near:
        return f"; did you mean `{_dotted((*key[:-1], near[0]))}`?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""


def _keys_at(key: Key, schema: type[BaseModel]) -> list[str]:
    for part in key:
        info = schema.model_fields.get(str(part))
        inner = None if info is None else info.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        schema = inner
    return list(schema.model_fields)


def _dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)
