"""Runs what compose.yaml says as plain processes of this machine: its commands, its environment, its checks.

Names of services become addresses of 127.0.0.1, paths in containers folders below one of the test's. What an
image's own entry point does (PostgreSQL's makes the cluster) is done here.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
POSTGRES = Path("/usr/lib/postgresql")
HEALTHY_S = 300
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


def interpolated(tree: Any, values: dict[str, str]) -> Any:
    """Put values in the place of ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``."""
    if isinstance(tree, dict):
        return {name: interpolated(value, values) for name, value in tree.items()}
    if isinstance(tree, list):
        return [interpolated(value, values) for value in tree]
    if not isinstance(tree, str):
        return tree

    def value_of(found: re.Match[str]) -> str:
        name, how, rest = found.groups()
        if values.get(name):
            return values[name]
        if how == ":?":
            raise KeyError(rest)
        return rest or ""

    return _VARIABLE.sub(value_of, tree)


def compose(values: dict[str, str]) -> dict[str, Any]:
    """Return the services of compose.yaml."""
    tree = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return interpolated(tree, values)["services"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Stack:
    """Services of compose.yaml as processes, with everything they write below ``folder``."""

    def __init__(self, folder: Path, values: dict[str, str]) -> None:
        self.folder = folder
        self.services = compose(values)
        self.ports = {name: free_port() for name in ("database", "store", "tracking", "service")}
        inside = {"database": 5432, "store": 9000, "tracking": 5000, "service": 8080}
        self._numbers = {str(inside[name]): str(port) for name, port in self.ports.items()}
        self._places = {
            "/var/lib/postgresql/data": folder / "database",
            "/data": folder / "store",
            "/work": folder / "work",
            "/photos": folder / "photos",
            "/images": folder / "images",
            "/scores": folder / "scores",
            "/receipts": folder / "receipts",
        }
        for place in [*self._places.values(), folder / "store/mlflow", folder / "tmp"]:
            place.mkdir(parents=True, exist_ok=True)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def translated(self, text: str) -> str:
        """Return a word or value of compose.yaml as it is on this machine."""
        if text in self._numbers:
            return self._numbers[text]
        for name, port in self.ports.items():
            inside = next(old for old, new in self._numbers.items() if new == str(port))
            for host in (name, "0.0.0.0", "127.0.0.1"):  # noqa: S104 - replaced, not bound
                text = text.replace(f"{host}:{inside}", f"127.0.0.1:{port}")
        for place, here in self._places.items():
            if text == place or text.startswith(f"{place}/"):
                return str(here) + text.removeprefix(place)
        return "127.0.0.1" if text == "0.0.0.0" else text.replace("/tmp/", f"{self.folder}/tmp/")  # noqa: S104, S108

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service, and nothing of the caller's but what an image has."""
        given = self.services[name].get("environment", {})
        # who may ask by which name is what is tested: it stays as it is
        kept = {key: value for key, value in given.items() if key.endswith("ALLOWED_HOSTS")}
        path = [str(Path(sys.executable).parent), os.environ["PATH"]]
        return {
            "PATH": ":".join(path),
            "HOME": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            **{key: self.translated(str(value)) for key, value in given.items()},
            **kept,
        }

    def words(self, name: str, words: list[str] | None = None) -> list[str]:
        """Return a service's command, or its entry point with other words."""
        service = self.services[name]
        given = service.get("command", []) if words is None else words
        line = [self.translated(word) for word in [*service.get("entrypoint", []), *given]]
        return [*_programs(line[0]), *line[1:]]

    def start(self, name: str, command: list[str] | None = None) -> None:
        """Start a service, its output into a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command or self.words(name),
                cwd=self.folder / "tmp",
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_database(self) -> None:
        """Make a cluster as the image's entry point does, and start it."""
        service = self.services["database"]
        given = service["environment"]
        programs = max(POSTGRES.iterdir()) / "bin"
        data, secret = self.folder / "database", self.folder / "tmp/password"
        secret.write_text(given["POSTGRES_PASSWORD"])
        for path in (data, secret):
            shutil.chown(path, service["user"])
        as_user = ["runuser", "-u", service["user"], "--"]
        made = ["--username", given["POSTGRES_USER"], "--pwfile", str(secret)]
        _must([*as_user, str(programs / "initdb"), "-D", str(data), "-A", "scram-sha-256", *made])
        program, *rest = service["command"]
        here = ["-D", str(data), "-k", str(data), "-p", str(self.ports["database"])]
        here += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self.start("database", [*as_user, str(programs / program), *here, *rest])
        asked = {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["database"])}
        login = {"PGUSER": given["POSTGRES_USER"], "PGPASSWORD": given["POSTGRES_PASSWORD"]}
        self.healthy("database", asked)
        made = [str(programs / "createdb"), given["POSTGRES_DB"]]
        _must(made, os.environ | asked | login)

    def healthy(self, name: str, more: dict[str, str] | None = None) -> None:
        """Wait until the service's own health check passes."""
        kind, *test = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        words = [self.translated(word) for word in test]
        deadline = time.monotonic() + HEALTHY_S
        while True:
            done = subprocess.run(
                [*_programs(words[0]), *words[1:]],
                env=self.environment(name) | (more or {}),
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return
            assert self.running[name].poll() is None, self.told(name)
            assert time.monotonic() < deadline, self.told(name)
            time.sleep(1)

    def job(self, name: str, words: list[str] | None = None) -> str:
        """Run a job to its end and return what it printed."""
        done = subprocess.run(
            self.words(name, words),
            cwd=self.translated(self.services[name].get("working_dir", "/work")),
            env=self.environment(name),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{name} {words}\n{done.stdout}\n{done.stderr}\n{self.tails()}"
        return done.stdout

    def told(self, name: str) -> str:
        """Return the end of a service's log."""
        return f"{name}: " + (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def tails(self) -> str:
        return "\n".join(self.told(name) for name in self.running)

    def stop(self, name: str) -> int:
        """Tell a service to end, as a container's end does, and return its exit code."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        patience = int(self.services[name].get("stop_grace_period", "10s")[:-1])
        try:
            return process.wait(timeout=patience + 20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def close(self) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)


def _programs(word: str) -> list[str]:
    if word == "hilum":  # this tree's, whatever is installed
        return [sys.executable, "-m", "services.cli.main"]
    if word == "python":
        return [sys.executable]
    if word == "pg_isready":
        return [str(max(POSTGRES.iterdir()) / "bin" / word)]
    return [word]


def _must(words: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
