"""Object storage and DICOMweb as sources of a batch: the rows of the same files in a folder."""

import io
import zipfile
from pathlib import Path

import boto3
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from moto.server import ThreadedMotoServer

from data_schemas.errors import UsageError
from pipeline.batch.score import Options, score_sources
from pipeline.ingest.sources.listing import Access
from tests.batch.drawn_files import picture
from tests.ingest.conftest import dicom
from tests.ingest.orthanc import free_port, running

LOGIN = {"user": "hilum", "password": "a password, for tests"}
SECRETS = ("MRN-", "Doe", LOGIN["password"])


def rows_of(package, source, out: Path, **access) -> list[dict]:
    score_sources(package, [source], out, Options(workers=1, access=Access(**access)))
    assert not any(secret.encode() in out.read_bytes() for secret in SECRETS)
    return pq.read_table(out).to_pylist()


def without_place(rows):
    return sorted(
        ({k: v for k, v in row.items() if k != "file"} for row in rows),
        key=lambda row: row["source_sha256"],
    )


def test_object_storage(binary_package, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "a secret of tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("2.png", picture(2))
    files = {"a/0.png": picture(0), "a/1.png": picture(1)[:99], "b.zip": archive.getvalue()}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        store = boto3.client("s3", endpoint_url=endpoint)
        store.create_bucket(Bucket="eyes")
        for name, data in files.items():
            store.put_object(Bucket="eyes", Key=f"in/{name}", Body=data)
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        storage = (("endpoint_url", endpoint),)
        found = rows_of(binary_package, "s3://eyes/in", tmp_path / "s3.parquet", storage=storage)
    finally:
        server.stop()
    assert [row["file"] for row in found] == [
        "s3://eyes/in/a/0.png",
        "s3://eyes/in/a/1.png",
        "s3://eyes/in/b.zip/2.png",
    ]
    folder = rows_of(binary_package, str(tmp_path / "in"), tmp_path / "folder.parquet")
    assert without_place(found) == without_place(folder)


def test_dicomweb(binary_package, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "orthanc").mkdir()
    with running(tmp_path / "orthanc", **LOGIN) as pacs:
        (tmp_path / "in").mkdir()
        for k in range(4):
            pixels = np.random.default_rng(k).integers(0, 255, (60, 90, 3), np.uint8)
            data = pydicom.dcmread(io.BytesIO(dicom(pixels, f"MRN-{k}")))
            data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.0.1.1", "1.2.826.0.1.2"
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.9.{k}"
            data.save_as(tmp_path / "in" / f"{k}.dcm", enforce_file_format=True)
            pacs.store((tmp_path / "in" / f"{k}.dcm").read_bytes())
        address = f"{pacs.dicomweb}?Modality=OP"
        found = rows_of(binary_package, address, tmp_path / "web.parquet", **LOGIN)
    assert [row["file"] for row in found] == [
        f"1.2.826.0.1.1/1.2.826.0.1.2/1.2.826.0.1.9.{k}" for k in range(4)
    ]
    folder = rows_of(binary_package, str(tmp_path / "in"), tmp_path / "folder.parquet")
    assert without_place(found) == without_place(folder)
    assert all(row["verdict"] for row in found)


@pytest.mark.parametrize("source", ["ftp//nothing", "nothing.zip"])
def test_what_is_no_source_is_named(binary_package, source, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        rows_of(binary_package, source, tmp_path / "out.parquet")
