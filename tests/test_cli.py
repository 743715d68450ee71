"""The door: help, exit codes, and errors that say what, where and how to mend it."""

import importlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from data_schemas.errors import OUTCOMES, BusyError, HilumError, ImageError
from services.cli import main as door
from services.cli.console import Console

ROOT = Path(__file__).parents[1]


def hilum(*words):
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command():
    done = hilum("--help")
    assert done.returncode == 0
    for name, summary in door.COMMANDS.items():
        assert name in done.stdout
        assert summary in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", door.COMMANDS)
def test_each_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        door.main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: hilum {name}" in text
    example = [line for line in text.splitlines() if line.strip().startswith(f"hilum {name}")]
    assert example, "no example of the command in its help"
    assert "--json" in text


@pytest.mark.parametrize("name", door.COMMANDS)
def test_each_command_refuses_an_unknown_flag(name, capsys):
    with pytest.raises(SystemExit) as ended:
        door.main([name, "--no-such-flag"])
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", door.COMMANDS)
def test_each_command_is_configure_and_run(name):
    module = importlib.import_module(f"services.cli.commands.{name.replace('-', '_')}")
    assert callable(module.configure)
    assert callable(module.run)


def test_version(capsys):
    assert door.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hilum ")


def test_an_unknown_command_is_named_and_the_known_ones_are_listed(capsys):
    assert door.main(["scroe"]) == 2
    told = capsys.readouterr()
    assert "`scroe` is not a command" in told.err
    assert "score" in told.err
    assert told.out == ""


def _with_command(monkeypatch, run):
    module = types.ModuleType("services.cli.commands.trial", "A trial.")
    module.configure = lambda _: None
    module.run = run
    monkeypatch.setitem(sys.modules, "services.cli.commands.trial", module)
    monkeypatch.setitem(door.COMMANDS, "trial", "a trial")


@pytest.mark.parametrize("kind", OUTCOMES, ids=lambda kind: kind.__name__)
def test_every_error_becomes_its_exit_code(kind, monkeypatch, capsys):
    def run(options, console):
        if issubclass(kind, ImageError):
            raise kind("CORRUPT", "the fact", mend="mend it so")
        if kind.__name__ == "ConfigError":
            raise kind([], mend="mend it so")
        if issubclass(kind, BusyError):
            raise kind("the fact")
        raise kind("the fact", where="there.yaml:3", mend="mend it so")

    _with_command(monkeypatch, run)
    assert door.main(["trial"]) == OUTCOMES[kind].exit_code
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert "hint: " in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_an_error_of_a_subclass_takes_its_parents_exit_code(monkeypatch):
    class SpecialError(ImageError):
        pass

    def run(options, console):
        raise SpecialError("CORRUPT", "the fact")

    _with_command(monkeypatch, run)
    assert door.main(["trial"]) == OUTCOMES[ImageError].exit_code


def test_debug_shows_the_traceback(monkeypatch):
    def run(options, console):
        raise HilumError("the fact")

    _with_command(monkeypatch, run)
    with pytest.raises(HilumError):
        door.main(["trial", "--debug"])


def test_ctrl_c_is_130(monkeypatch, capsys):
    def run(options, console):
        raise KeyboardInterrupt

    _with_command(monkeypatch, run)
    assert door.main(["trial"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_json_prints_one_object_and_nothing_else_on_stdout(monkeypatch, capsys):
    def run(options, console):
        console.say("a remark")
        console.progress(1, 2, "working")
        console.result("for a person", {"answer": 42})
        return 0

    _with_command(monkeypatch, run)
    assert door.main(["trial", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"answer": 42}
    assert "a remark" in told.err


def test_progress_without_a_terminal_is_lines_and_always_tells_the_end(capsys):
    console = Console()
    for done in range(1, 101):
        console.progress(done, 100, "reading")
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[-1].startswith("reading: 100/100")


def test_progress_of_a_list_whose_length_is_not_known_is_not_a_line_each(capsys):
    console = Console()
    for done in range(1, 101):
        console.progress(done, done, "listing")
    for done in (40, 70, 100):
        console.progress(done, 100, "reading")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("reading: 100/100, ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve"], "no model is named"),
        (["serve", "no/such/folder"], "no such package folder"),
        (["serve", "x", "--port", "many"], "--port: port:"),
        (["train", "no/such/dataset"], "no/such/dataset"),
        (["ingest", "no/such/folder", "--labels", "none.csv", "--out", "out"], "no"),
        (["report", "no/such/score.json"], "no/such/score.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_arguments_end_in_one_clear_error(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HILUM_MODEL", raising=False)
    assert door.main(words) in (1, 2)
    err = capsys.readouterr().err
    assert "error: " in err
    assert told in err
    assert "Traceback" not in err


def test_settings_faults_come_all_at_once_with_their_places(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text("learning:\n  epochs: 0\n  bach: 4\nseed: none\n")
    words = ["train", ".", "--config", "plan.yaml", "--set", "learning.rate=-1"]
    assert door.main(words) == 2
    err = capsys.readouterr().err
    assert "plan.yaml:2: learning.epochs: " in err
    assert "plan.yaml:3: learning.bach: is not a known key; did you mean `learning.batch`?" in err
    assert "plan.yaml:4: seed: " in err
    assert "--set learning.rate=-1: learning.rate: " in err


def test_deidentify_takes_as_many_processes_as_it_is_told(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    from pipeline.ingest.deidentify import deidentify as room

    told = {}
    monkeypatch.setattr(room, "deidentify", lambda *_, **named: told.update(named) or [])
    monkeypatch.setenv("HILUM_PSEUDONYM_KEY", "a key of the tests, long enough for one")
    assert door.main(["deidentify", str(tmp_path), str(tmp_path / "out"), "--workers", "3"]) == 0
    assert told["workers"] == 3
    with pytest.raises(SystemExit):
        door.main(["deidentify", str(tmp_path), str(tmp_path / "out"), "--workers", "-1"])
