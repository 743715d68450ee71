"""The road of a configuration value: layers, places, and every fault at once."""

import contextlib
import string
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field

from data_schemas.contract import Contract
from data_schemas.document import Document, Part
from data_schemas.errors import ConfigError, UsageError
from data_schemas.plan import Plan
from data_schemas.settings import (
    Layer,
    from_assignments,
    from_file,
    from_text,
    resolve,
    to_yaml,
)
from services.cli import settings as door
from services.inference.settings import ServiceSettings, from_door


class Inner(Part):
    """A part of the schema of these tests."""

    batch: int = Field(default=32, ge=1)
    rate: float = 0.1
    kind: Literal["one", "two"] = "one"


class Outer(Document):
    """The schema of these tests."""

    name: str
    inner: Inner = Inner()
    steps: tuple[Inner, ...] = ()


def faults_of(call, *arguments):
    with pytest.raises(ConfigError) as raised:
        call(*arguments)
    return [str(fault) for fault in raised.value.faults]


def test_later_layers_win_key_by_key():
    layers = [
        from_text("name: a\ninner: {batch: 1, rate: 1.0}", "preset"),
        from_text("inner: {batch: 2}", "file"),
        from_assignments(["inner.kind=two"]),
    ]
    assert resolve(Outer, layers) == Outer(name="a", inner=Inner(batch=2, rate=1.0, kind="two"))


def test_every_fault_comes_at_once_with_file_line_and_key():
    text = "inner:\n  batch: 0\n  knid: two\nsteps:\n  - {rate: 1}\n  - {rate: fast}\n"
    layers = [from_text(text, "plan.yaml"), from_assignments(["inner.kind=three"])]
    found = faults_of(resolve, Outer, layers)
    assert len(found) == 5
    assert any(f.startswith("settings: name: is missing") for f in found)
    assert any(f.startswith("plan.yaml:2: inner.batch: ") and "got 0" in f for f in found)
    assert "plan.yaml:3: inner.knid: is not a known key; did you mean `inner.kind`?" in found
    assert any(f.startswith("plan.yaml:6: steps.1.rate: ") and "'fast'" in f for f in found)
    assert any(f.startswith("--set inner.kind=three: inner.kind: ") for f in found)


def test_the_place_of_a_fault_is_the_layer_that_set_it():
    layers = [
        from_text("name: a\ninner: {batch: 0}", "preset"),
        from_text("inner:\n  batch: -1", "f"),
    ]
    assert faults_of(resolve, Outer, layers)[0].startswith("f:2: inner.batch: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2\n", "f:2: a: stands twice in this file"),
        ("x:\n  a: 1\n  b: 2\n  a: 3\n", "f:4: x.a: stands twice in this file"),
        ("- 1\n- 2\n", "f:1: must be a mapping of key: value"),
        ("just words", "f:1: must be a mapping of key: value"),
        ("a: [1, 2\n", "f:2: is not YAML"),
        ("a: 2026-99-99\n", "f: is not plain YAML"),
        ("a: \x00\n", "f: is not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "f: is not plain YAML"),
    ],
)
def test_a_file_that_is_no_settings_file_says_where(text, told):
    assert any(fault.startswith(told) for fault in faults_of(from_text, text, "f"))


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    assert faults_of(from_file, tmp_path / "none.yaml") == [
        f"{tmp_path}/none.yaml: no such settings file"
    ]
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "can't be read" in faults_of(from_file, tmp_path / "bytes.yaml")[0]
    assert "can't be read" in faults_of(from_file, tmp_path)[0]


def test_an_empty_file_is_an_empty_layer():
    assert from_text("", "f") == Layer({})
    assert from_text("# only a remark\n", "f") == Layer({})


def test_assignments_report_every_wrong_word():
    found = faults_of(from_assignments, ["inner.batch", "=3", "a..b=1", "name=[1", "seed=3"])
    assert len(found) == 4
    assert all(fault.startswith("--set ") for fault in found)


def test_assignments_are_yaml_and_the_last_one_wins():
    tree = from_assignments(["a.b=1", "a.c=[x, y]", "a.b=2", "d=null", "e=false"]).tree
    assert tree == {"a": {"b": 2, "c": ["x", "y"]}, "d": None, "e": False}


def test_infinite_numbers_are_refused():
    found = faults_of(resolve, Outer, [from_text("name: a\ninner: {rate: .nan}", "f")])
    assert found[0].startswith("f:2: inner.rate: ")


words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
trees = st.dictionaries(
    words,
    st.recursive(
        st.integers(-5, 5) | st.booleans() | words,
        lambda inner: st.dictionaries(words, inner, min_size=1, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(trees)
def test_every_key_of_a_file_has_a_place_on_its_line(tree):
    text = yaml.safe_dump(tree, default_flow_style=False)
    layer = from_text(text, "f")
    assert layer.tree == tree
    lines = text.splitlines()
    for key, place in layer.places.items():
        number = int(place.removeprefix("f:"))
        assert str(key[-1]) in lines[number - 1]


@given(st.text(max_size=60))
def test_no_text_escapes_as_another_error(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(from_text(text, "f").tree, dict)


@given(trees, trees)
def test_merging_keeps_what_the_upper_layer_says(below, above):
    class Anything(Part):
        model_config = ConfigDict(extra="allow")

    merged = resolve(Anything, [Layer(below), Layer(above)]).model_dump()

    def check(lower, upper, result):
        assert set(result) == set(lower) | set(upper)
        for key, value in upper.items():
            if isinstance(value, dict) and isinstance(lower.get(key), dict):
                check(lower[key], value, result[key])
            else:
                assert result[key] == value
        for key in set(lower) - set(upper):
            assert result[key] == lower[key]

    check(below, above, merged)


@pytest.mark.parametrize("schema", [Plan, lambda **tree: Contract(name="x", **tree)])
def test_a_resolved_document_written_as_yaml_reads_back_equal(schema):
    document = schema()
    again = resolve(type(document), [from_text(to_yaml(document), "f")])
    assert again == document
    assert again.digest() == document.digest()


def test_a_preset_a_file_or_a_clear_no(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 7\n")
    preset = door.preset_names("plans")[0]
    assert door.resolve(Plan, "plans", [preset, str(file)], ["seed=8"]).seed == 8
    with pytest.raises(UsageError) as raised:
        door.layer_of("plans", "no-such-preset")
    assert preset in str(raised.value)


def test_the_services_settings_come_from_the_environment_and_flags_win():
    environment = {"HILUM_PORT": "9000", "HILUM_MODEL": "models:/a@b", "HILUM_QUEUE": ""}
    settings = from_door({"port": "9001", "host": None}, environment)
    assert settings == ServiceSettings(model="models:/a@b", port=9001)


def test_the_services_settings_report_every_fault_with_its_variable_or_flag():
    environment = {"HILUM_PORT": "many", "HILUM_QUEUE": "-1"}
    found = faults_of(from_door, {"max_body_mb": "0"}, environment)
    assert len(found) == 3
    assert any(fault.startswith("HILUM_PORT: port: ") for fault in found)
    assert any(fault.startswith("HILUM_QUEUE: queue: ") for fault in found)
    assert any(fault.startswith("--max-body-mb: max_body_mb: ") for fault in found)
