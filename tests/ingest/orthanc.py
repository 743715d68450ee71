"""A real Orthanc with its DICOMweb plugin, started for the tests on ports and in a folder of its own."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Orthanc:
    """A running server."""

    url: str
    user: str
    password: str

    @property
    def dicomweb(self) -> str:
        return f"dicomweb+{self.url}/dicom-web"

    def request(self, path: str, data: bytes | None = None, method: str = "GET") -> bytes:
        login = (self.user, self.password) if self.user else None
        answer = requests.request(method, f"{self.url}{path}", data=data, auth=login, timeout=30)
        answer.raise_for_status()
        return answer.content

    def store(self, data: bytes) -> str:
        """Store an instance as it is; return Orthanc's own name of it."""
        return json.loads(self.request("/instances", data, "POST"))["ID"]


def needed() -> None:
    """Skip, or in CI fail, where Orthanc is not installed."""
    if shutil.which("Orthanc") and PLUGIN.exists():
        return
    reason = "needs orthanc and orthanc-dicomweb: make setup-pacs"
    if os.environ.get("CI_PACS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running(folder: Path, user: str = "", password: str = "") -> Iterator[Orthanc]:
    needed()
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "TEST",
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "HttpBindAddresses": ["127.0.0.1"],
        "AuthenticationEnabled": bool(user),
        "RegisteredUsers": {user: password} if user else {},
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(path)], stdout=log, stderr=log, cwd=folder)
    server = Orthanc(f"http://127.0.0.1:{http}", user, password)
    try:
        _wait(server, process, folder / "orthanc.log")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


def _wait(server: Orthanc, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"Orthanc ended: {log.read_text()[-2000:]}")
        try:
            server.request("/system")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("Orthanc doesn't answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
