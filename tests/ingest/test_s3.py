"""Object storage: a real S3 server over HTTP, more keys than one page holds, archives, and what vanishes."""

import io
import pickle
import tarfile
import zipfile

import boto3
import fsspec
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from PIL import Image

from data_schemas.contract import Contract
from data_schemas.errors import DatasetError, ImageError, UsageError
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.sources.ahead import fetched_ahead
from pipeline.ingest.sources.listing import Access
from pipeline.ingest.sources.open import open_source
from tests.ingest.conftest import KEY, dicom, drawn
from tests.ingest.orthanc import free_port

CONTRACT = Contract(name="tiny", size=16)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(drawn(seed)).save(stream, "PNG")
    return stream.getvalue()


def again(file):
    return pickle.loads(pickle.dumps(file))  # noqa: S301 - our own; as another process gets it


@pytest.fixture(scope="module", autouse=True)
def _environment():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "a secret of tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def endpoint(_environment):
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(endpoint):
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="images")

    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket="images", Key=key, Body=data)

    put.client = client
    return put


def listed(address: str, endpoint: str, **access):
    options = Access(storage=(("endpoint_url", endpoint),), **access)
    return open_source(address, progress=silent, access=options)


def test_a_folder_and_a_bucket_of_the_same_files_are_the_same_data_set(bucket, endpoint, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    files = {f"deep/p{k}.png": png(k) for k in range(5)} | {"scan": dicom(drawn(9), "MRN-1")}
    files["table.txt"] = b"no image"
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
        bucket(f"same/{name}", data)
    bucket("same/.hidden/x.png", png(0))
    bucket("same/empty/", b"")
    said: list[str] = []
    table = tmp_path / "labels.csv"
    table.write_text("".join(["image,y\n", *(f"deep/p{k}.png,{k % 2}\n" for k in range(5)), "scan,1\n"]))  # fmt: skip
    access = Access(storage=(("endpoint_url", endpoint),))

    def run(source, out):
        return ingest(source, table, tmp_path / out, CONTRACT, key=KEY, progress=silent, options=Options(access=access, say=said.append))  # fmt: skip

    by_folder = run(tmp_path / "in", "folder")
    by_bucket = run("s3://images/same", "bucket")
    assert by_bucket.content_sha256 == by_folder.content_sha256
    assert by_bucket.images == 6
    assert by_bucket.refused == {"NOT_AN_IMAGE": 1}
    assert by_bucket.name == "same"
    assert any("1 hidden object" in remark for remark in said)
    assert not any("a secret of tests" in remark for remark in said)
    # the ETag is the state: nothing is fetched again, and the version stays
    again = run("s3://images/same", "bucket")
    assert again == by_bucket
    bucket("same/deep/p9.png", png(77))
    assert run("s3://images/same", "bucket").files_read == by_bucket.files_read + 1


def test_a_listing_of_several_pages_is_whole(bucket, endpoint):
    storage = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # the server's own store: spares 1105 requests
    for k in range(1105):
        storage.put_object("images", f"many/{k:04d}", b"x")
    found = listed("s3://images/many/", endpoint)
    assert [file.place for file in found.files] == [f"{k:04d}" for k in range(1105)]
    assert len({file.state for file in found.files}) == 1
    assert found.files[0].size == 1
    assert found.requests >= 16


def test_archives_in_a_bucket_are_read_without_being_fetched_whole(bucket, endpoint):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for k in range(3):
            archive.writestr(f"in/p{k}.png", png(k))
    bucket("packed/a.zip", packed.getvalue())
    rolled = io.BytesIO()
    with tarfile.open(fileobj=rolled, mode="w:gz") as archive:
        info = tarfile.TarInfo("q.png")
        info.size = len(png(9))
        archive.addfile(info, io.BytesIO(png(9)))
    bucket("packed/b.tgz", rolled.getvalue())
    bucket("packed/c.zip", packed.getvalue()[:-30])
    files = listed("s3://images/packed", endpoint).files
    assert [file.place for file in files] == ["a.zip/in/p0.png", "a.zip/in/p1.png", "a.zip/in/p2.png", "b.tgz/q.png", "c.zip"]  # fmt: skip
    assert [file.fetch() for file in files[:4]] == [png(0), png(1), png(2), png(9)]
    with pytest.raises(ImageError) as caught:
        files[4].fetch()
    assert caught.value.code == "TRUNCATED"
    one = listed("s3://images/packed/a.zip", endpoint)
    assert one.files[0].place == "a.zip/in/p0.png"


def test_an_object_that_vanishes_is_one_refusal(bucket, endpoint):
    for k in range(20):
        bucket(f"passing/{k:02d}.png", png(k))
    files = [again(file) for file in listed("s3://images/passing", endpoint).files]
    bucket.client.delete_object(Bucket="images", Key="passing/07.png")
    outcomes = {}
    for file in fetched_ahead(files, 16):
        try:
            outcomes[file.place] = file.fetch() == png(int(file.place[:2]))
        except ImageError as error:
            outcomes[file.place] = error.code
    assert list(outcomes) == [file.place for file in files]
    assert outcomes.pop("07.png") == "UNREADABLE"
    assert set(outcomes.values()) == {True}


def test_too_large_objects_are_not_fetched(bucket, endpoint):
    bucket("large/x.png", bytes(2000))
    (file,) = listed("s3://images/large", endpoint, most_bytes=1000).files
    bucket.client.delete_object(Bucket="images", Key="large/x.png")
    with pytest.raises(ImageError) as caught:
        file.fetch()
    assert caught.value.code == "TOO_LARGE"


def test_wrong_addresses_are_told(endpoint, bucket):
    with pytest.raises(DatasetError, match="no objects"):
        listed("s3://images/nothing", endpoint)
    with pytest.raises(DatasetError, match=r"can't be listed|no objects"):
        listed("s3://no-such-bucket/x", endpoint)
    with pytest.raises(UsageError, match="fsspec knows no"):
        open_source("nowhere://x/y", progress=silent)
    with pytest.raises(UsageError, match="refuses one of --storage-option"):
        open_source("s3://x/y", progress=silent, access=Access(storage=(("no_such_option", "1"),)))
    with pytest.raises(UsageError, match="password"):
        open_source("s3://key:secret@images/x", progress=silent)


def test_other_storage_of_fsspec(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(1))
    found = open_source(f"file://{tmp_path}/in", progress=silent)
    assert [(file.place, file.fetch()) for file in found.files] == [("a.png", png(1))]
    memory = fsspec.filesystem("memory")
    memory.pipe("/hilum/deep/b.png", png(2))
    memory.pipe("/hilum/a.png", png(3))
    found = open_source("memory://hilum", progress=silent)
    assert [file.place for file in found.files] == ["a.png", "deep/b.png"]
    assert [file.fetch() for file in found.files] == [png(3), png(2)]
    memory.rm("/hilum", recursive=True)
