"""What several rooms' tests share: property tests without deadlines, an MLflow store that is ready at once,
a disk that can be full."""

import os
import shutil
import subprocess

import pytest
from hypothesis import settings

# a busy machine is no fault of the code; in CI the same cases every time
settings.register_profile("hilum", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("hilum")


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory):
    """A migrated, empty mlflow.db. Creating one costs seconds, copying one nothing."""
    from pipeline.tracking.store import open_client

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{file}")
    return file


@pytest.fixture
def disk(tmp_path, request):
    """A file system of its own, as large as the test's mark ``disk`` says (64k, 48m). Its folder."""
    (size,) = request.node.get_closest_marker("disk").args
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def mlflow_uri(migrated_store, tmp_path, monkeypatch):
    """The address of this test's own store; the current folder is the test's own, too."""
    file = tmp_path / "store" / "mlflow.db"
    file.parent.mkdir()
    shutil.copyfile(migrated_store, file)
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{file}"
