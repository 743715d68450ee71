"""What several rooms' tests share: property tests without deadlines, an MLflow store that is ready at once."""

import os
import shutil

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
def mlflow_uri(migrated_store, tmp_path, monkeypatch):
    """The address of this test's own store; the current folder is the test's own, too."""
    file = tmp_path / "store" / "mlflow.db"
    file.parent.mkdir()
    shutil.copyfile(migrated_store, file)
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{file}"
