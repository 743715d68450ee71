"""Starts each server as a user would, and tells the processor time of all its processes."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).resolve().parent / "peers"


@dataclass
class Server:
    """A running server: where and how to ask it."""

    name: str
    process: subprocess.Popen
    url: str
    headers: dict[str, str]
    body: Callable[[bytes], bytes]
    """A file's bytes -> what is sent."""
    probability: Callable[[bytes], float]
    """What came -> probability of the finding."""
    tree: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Learn which processes it has; call it once all are there."""
        root = psutil.Process(self.process.pid)
        self.tree = [root.pid, *(child.pid for child in root.children(recursive=True))]

    def cpu(self) -> dict[int, float]:
        """Return seconds of user and system time of each process so far, with all its threads."""
        return {pid: cpu_of(pid) for pid in self.tree}

    def stop(self) -> None:
        # each was started in a process group of its own
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def cpu_of(pid: int) -> float:
    """Return a process's CPU seconds by its own clock: nanoseconds, where /proc has ticks of 10 ms."""
    return time.clock_gettime((~pid << 3) | 2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(words: list[str], log: Path, **environment: str) -> subprocess.Popen:
    places = os.pathsep.join([str(ROOT), str(PEERS)])
    # MLflow starts a `uvicorn` that it looks for there
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    quiet = {
        "PATH": path,
        "PYTHONPATH": places,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    # an installed service has its byte code beside it
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(log.parent / "pycache")}
    with log.open("wb") as stream:
        return subprocess.Popen(
            words, cwd=ROOT, stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, **quiet, **compiled, **environment},
        )  # fmt: skip


def answers(url: str) -> bool:
    """Tell whether something answers there, whatever it says but 503."""
    try:
        urllib.request.urlopen(url, timeout=5).read()
    except urllib.error.HTTPError as error:
        return error.code != 503
    except OSError:
        return False
    return True


def wait_for(server: Server, path: str, seconds: float = 180) -> Server:
    end = time.monotonic() + seconds
    while not answers(server.url + path):
        if server.process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{server.name} didn't start; see its log")
        time.sleep(0.1)
    server.url += {"/readyz": "/v1/scores", "/ping": "/invocations"}.get(path, "/predict")
    return server


def ours(package: Path, out: Path, *words: str, name: str = "hilum") -> Server:
    """``hilum serve PACKAGE`` with its default settings."""
    port, log = free_port(), out / f"{name}.log"
    command = [sys.executable, "-m", "services.cli.main", "serve", str(package)]
    process = launch([*command, "--port", str(port), *words], log)
    server = Server(
        name, process, f"http://127.0.0.1:{port}", {}, lambda data: data,
        lambda text: json.loads(text)["findings"][0]["probability"],
    )  # fmt: skip
    return wait_for(server, "/readyz")


def _peer(name: str, words: list[str], port: int, package: Path, out: Path) -> Server:
    # one thread a call: several of them wait for each other by spinning, which costs a third more
    process = launch(
        words, out / f"{name}.log", BENCH_PACKAGE=str(package), OMP_NUM_THREADS="1"
    )  # fmt: skip
    return Server(
        name, process, f"http://127.0.0.1:{port}", {}, lambda data: data,
        lambda text: json.loads(text)["probability"],
    )  # fmt: skip


def fastapi(package: Path, out: Path, module: str = "fastapi_torch") -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port)]
    server = _peer(module, [*command, "--log-level", "warning"], port, package, out)
    if module == "fastapi_torch":
        edge = b"benchmark-of-a-form"
        server.headers = {"Content-Type": f"multipart/form-data; boundary={edge.decode()}"}
        head = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' % edge
        server.body = lambda data: head + data + b"\r\n--%s--\r\n" % edge
    return wait_for(server, "/docs")


def litserve(package: Path, out: Path) -> Server:
    port = free_port()
    server = _peer(
        "litserve", [sys.executable, str(PEERS / "litserve_torch.py"), str(port)], port, package, out
    )  # fmt: skip
    server.headers = {"Content-Type": "application/json"}
    server.body = lambda data: json.dumps({"image": base64.b64encode(data).decode()}).encode()
    return wait_for(server, "/health")


def mlflow(package: Path, out: Path) -> Server:
    port, model = free_port(), out / f"mlflow-{package.parent.name}"
    if not model.is_dir():
        save = (
            "import mlflow, sys; mlflow.pyfunc.save_model(sys.argv[1], python_model=sys.argv[2],"
            " artifacts={'package': sys.argv[3]}, pip_requirements=[])"
        )
        words = [
            sys.executable,
            "-c",
            save,
            str(model),
            str(PEERS / "mlflow_pyfunc.py"),
            str(package),
        ]
        if launch(words, out / "mlflow-save.log").wait():
            raise SystemExit("the MLflow model couldn't be saved; see mlflow-save.log")
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", str(model)]
    server = _peer(
        "mlflow", [*command, "--env-manager", "local", "-p", str(port)], port, package, out
    )
    server.headers = {"Content-Type": "application/json"}
    server.body = lambda data: json.dumps(
        {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(data).decode()]]}}
    ).encode()
    server.probability = lambda text: json.loads(text)["predictions"][0]
    return wait_for(server, "/ping")
