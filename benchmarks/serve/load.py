"""Asks a server, so many at a time, and measures what it costs; asks the floor the same."""

import http.client
import itertools
import json
import math
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from servers import ROOT, Server


@dataclass
class Measured:
    """One turn: what ``count`` requests took."""

    cpu: float
    """Seconds of all processes together, a request."""
    wall: float
    count: int
    seconds: list[float] = field(default_factory=list)
    by_process: dict[int, float] = field(default_factory=dict)
    stages: list[float] = field(default_factory=list)


class FailedError(Exception):
    """A server answered something else than a score."""


class Client:
    """Connections that stay open, one for each thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._place = urllib.parse.urlsplit(server.url)
        self._own = threading.local()

    def ask(self, body: bytes) -> tuple[float, bytes]:
        """Return seconds and answer of one request."""
        line = getattr(self._own, "line", None)
        if line is None:
            line = self._own.line = http.client.HTTPConnection(self._place.netloc, timeout=120)
        began = time.perf_counter()
        line.request("POST", self._place.path, body, self._server.headers)
        came = line.getresponse()
        text = came.read()
        if came.status != 200:
            raise FailedError(f"{self._server.name} answered {came.status}: {text[:300]!r}")
        return time.perf_counter() - began, text


def measure(server: Server, files: list[bytes], count: int, at_once: int) -> Measured:
    """Send ``count`` requests, ``at_once`` in flight."""
    bodies = [server.body(data) for data in files]
    client = Client(server)
    with ThreadPoolExecutor(at_once) as pool:
        turn = itertools.islice(itertools.cycle(bodies), count)
        before, began = server.cpu(), time.perf_counter()
        seconds = [answer[0] for answer in pool.map(client.ask, turn)]
        wall, after = time.perf_counter() - began, server.cpu()
    spent = {pid: (after[pid] - before[pid]) / count for pid in after}
    return Measured(sum(spent.values()), wall, count, seconds, spent)


class Floor:
    """The floor's process."""

    name = "floor"

    def __init__(self, package: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("floor.py")), str(package), *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, files: list[Path], count: int, threads: int) -> dict[str, list[float]]:
        order = {"files": [str(file) for file in files], "count": count, "threads": threads}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def measure(self, files: list[Path], count: int, threads: int) -> Measured:
        told = self.ask(files, count, threads)
        return Measured(
            told["cpu"] / count, told["wall"], count, told["seconds"], stages=told["stages"]
        )

    def probabilities(self, files: list[Path]) -> list[float]:
        logits = self.ask(files, len(files), 2)["logits"]
        return [1 / (1 + math.exp(-logit)) for logit in logits]

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(20)
