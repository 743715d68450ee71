"""Calls `hilum` as a user would, for benchmarks: JSON out, wall and CPU time of the call beside it."""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / "../shared/data"


@dataclass(frozen=True)
class Call:
    """What a command printed, and what it took."""

    answer: dict[str, Any]
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Place:
    """A folder in which a benchmark keeps its data sets, runs and results; a killed one goes on there."""

    folder: Path

    @property
    def uri(self) -> str:
        """The tracking store."""
        return f"sqlite:///{self.folder.resolve() / 'mlflow.db'}"

    def hilum(self, *words: object) -> Call:
        """Run one command; its remarks and progress go to stderr as they come.

        Raises
        ------
        SystemExit
            If the command fails; what it said stands on stderr.
        """
        command = [sys.executable, "-m", "services.cli.main", *map(str, words), "--json"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": self.uri}
        print(f"$ hilum {' '.join(map(str, words))}", file=sys.stderr, flush=True)
        started, before = time.monotonic(), _cpu_s()
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=False)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"hilum {words[0]} ended with {done.returncode}")
        return Call(json.loads(done.stdout), time.monotonic() - started, _cpu_s() - before)

    def key(self) -> Path:
        """Return the file with the key of the pseudonyms, the same on every machine."""
        file = self.folder / "key"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text("benchmark: these data are public, the key needn't be secret")
        return file

    def train(self, name: str, *words: object) -> Call:
        """Train in an experiment of its own; a training of this name that was stopped goes on."""
        begun = self.folder / f"{name}.begun"
        more = ("--resume", "last") if begun.is_file() and self._is_stopped(name) else ()
        begun.touch()
        # a run that goes on goes on by its own plan: what was set stands in it
        given = words if not more else words[:1]
        call = self.hilum("train", *given, "--experiment", name, *more)
        begun.unlink()
        return call

    def _is_stopped(self, name: str) -> bool:
        sys.path[:0] = [str(ROOT)]
        from data_schemas.errors import TrackingError
        from pipeline.tracking.finding import stopped_run

        try:
            run_id, tags = stopped_run(self.uri, "last", name)
        except TrackingError:
            return False
        return bool(run_id) and Path(tags.get("hilum.state", "nowhere")).is_dir()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
