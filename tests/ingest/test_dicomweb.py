"""DICOMweb from a real Orthanc: the same instances by folder and by network are the same data set."""

import csv
import http.server
import io
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.contract import Contract
from data_schemas.errors import DatasetError, ImageError, UsageError
from data_schemas.files import sha256
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.sources.dicomweb import _pages
from pipeline.ingest.sources.listing import Access
from pipeline.ingest.sources.multipart import first_part, limited
from pipeline.ingest.sources.open import open_source
from tests.ingest.conftest import KEY, dicom, drawn
from tests.ingest.orthanc import running

SHARED = Path(__file__).parents[2] / "../shared/data/dicom"
LOGIN = {"user": "hilum", "password": "a password, for tests"}
CONTRACT = Contract(name="tiny", size=16)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    with running(tmp_path_factory.mktemp("orthanc"), **LOGIN) as server:
        yield server


@pytest.fixture(scope="module")
def cohort(pacs, tmp_path_factory):
    """Twelve instances of three patients, stored by network and as files."""
    folder = tmp_path_factory.mktemp("files")
    for k in range(12):
        data = pydicom.dcmread(io.BytesIO(dicom(drawn(k), f"MRN-{k % 3}", "LR"[k % 2])))
        data.StudyInstanceUID = f"1.2.826.0.1.{k % 3}"
        data.SeriesInstanceUID = f"1.2.826.0.1.{k % 3}.{k % 2}"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.9.{k}"
        data.StudyDate = f"2020010{k % 3 + 1}"
        data.Modality = "OP" if k % 2 else "XC"
        data.save_as(folder / f"scan{k}.dcm", enforce_file_format=True)
        pacs.store((folder / f"scan{k}.dcm").read_bytes())
    return folder


def listed(address: str, **access):
    return open_source(address, progress=silent, access=Access(**(LOGIN | access))).files


def content(source, out: Path, **options) -> str:
    found = ingest(
        source, None, out, CONTRACT, key=KEY, progress=silent,
        options=Options(access=Access(**LOGIN), **options),
    )  # fmt: skip
    return found.content_sha256


def test_the_same_instances_by_folder_and_by_network(pacs, cohort, tmp_path):
    said: list[str] = []
    by_folder = content(cohort, tmp_path / "folder")
    by_network = content(pacs.dicomweb, tmp_path / "network", say=said.append)
    assert by_network == by_folder
    for secret in ("MRN", "1.2.826", LOGIN["password"]):
        assert not any(secret in remark for remark in said)
        for path in (tmp_path / "network").iterdir():
            assert secret.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?Modality=OP", 6),
        ("?00080060=XC", 6),
        ("?StudyDate=20200102-20200103", 8),
        ("?StudyDate=20200102-&Modality=OP", 4),
        ("?StudyInstanceUID=1.2.826.0.1.1", 4),
        ("?SeriesInstanceUID=1.2.826.0.1.2.1", 2),
        ("?SOPInstanceUID=1.2.826.0.1.9.5", 1),
        ("?PatientID=MRN-2", 4),
    ],
)
def test_queries_of_every_level(query, count, pacs, cohort):
    assert len(listed(pacs.dicomweb + query)) == count


def test_labels_join_by_instance_patient_and_eye(pacs, cohort, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text(
        "patient,laterality,grade\nMRN-0,L,0\nMRN-0,R,1\nMRN-1,,2\nMRN-9,,2\n", encoding="utf-8"
    )
    said: list[str] = []
    info = ingest(
        pacs.dicomweb, table, tmp_path / "out", CONTRACT, key=KEY, progress=silent,
        options=Options(access=Access(**LOGIN), say=said.append),
    )  # fmt: skip
    assert info.labels[0].counts == (2, 2, 4)
    assert info.refused == {"NO_LABEL": 4}
    assert any("1 rows match no file" in remark and "line 5" in remark for remark in said)
    assert not any("MRN" in remark for remark in said)


def test_pages_are_followed_to_the_end(pacs, cohort, monkeypatch):
    monkeypatch.setattr("pipeline.ingest.sources.dicomweb._PAGE", 2)
    assert len(listed(pacs.dicomweb)) == 12


@given(st.integers(0, 40), st.integers(1, 9), st.booleans())
def test_pages_of_any_size_give_every_instance_once(count, most, deaf):
    uids = [f"1.{k}" for k in range(count)]

    def search(limit, offset, search_filters):
        start = 0 if deaf else offset  # some servers answer everything, whatever the offset
        end = None if deaf else start + most
        return [{"0020000D": {"Value": [uid]}} for uid in uids[start:end]]

    assert list(_pages(search, "0020000D", {})) == uids


def test_an_instance_that_vanished_is_one_refusal(pacs, tmp_path):
    with running(tmp_path, **LOGIN) as server:
        ids = []
        for k in range(3):
            data = pydicom.dcmread(io.BytesIO(dicom(drawn(k), f"P{k}")))
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.{k}"
            data.StudyInstanceUID = data.SeriesInstanceUID = f"1.3.{k}"
            stream = io.BytesIO()
            data.save_as(stream, enforce_file_format=True)
            ids.append(server.store(stream.getvalue()))
        files = listed(server.dicomweb)
        server.request(f"/instances/{ids[0]}", method="DELETE")
        outcomes = []
        for file in files:
            try:
                outcomes.append(len(file.fetch()) > 1000)
            except ImageError as error:
                outcomes.append((error.code, error.what))
    assert outcomes[1:] == [True, True]
    assert outcomes[0] == ("UNREADABLE", "the instance vanished after it was listed")


def test_wrong_doors_are_told_without_secrets(pacs, cohort):
    with pytest.raises(DatasetError, match="HTTP 401") as caught:
        listed(pacs.dicomweb, password="wrong secret")  # noqa: S106
    assert "wrong secret" not in str(caught.value)
    with pytest.raises(DatasetError, match="no instance matches"):
        listed(pacs.dicomweb + "?PatientID=nobody")
    with pytest.raises(DatasetError, match="can't be searched"):
        listed("dicomweb+http://127.0.0.1:9/dicom-web", attempts=1)
    with pytest.raises(UsageError, match="password"):
        listed(pacs.dicomweb.replace("//", "//user:secret@"))
    with pytest.raises(UsageError, match="no address"):
        listed("dicomweb+ftp://archive")


@pytest.mark.needs_shared
def test_every_transfer_syntax_comes_as_it_is_stored(tmp_path):
    """One file of each syntax: what the folder's bytes are, the network's are."""
    if not SHARED.exists():
        pytest.skip("needs ../shared/data/dicom")
    first: dict[str, Path] = {}
    with (SHARED / "index.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if int(row["bytes"]) < 2_000_000 and row["frames"] in ("", "1") and row["modality"]:
                first.setdefault(row["transfer_syntax_uid"], SHARED / row["file"])
    stored = {}
    with running(tmp_path) as server:
        for syntax, path in first.items():
            try:
                server.store(path.read_bytes())
                stored[sha256(path.read_bytes())] = syntax
            except OSError:
                continue  # Orthanc takes no file without UIDs
        got = {sha256(file.fetch()) for file in listed(server.dicomweb, user="", password="")}
    assert got == set(stored)
    assert len(stored) >= 12


class _Stub(http.server.BaseHTTPRequestHandler):
    """A server with bad manners; ``answers`` of its server are (status, headers, body), the last for ever."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@contextmanager
def rude(*answers):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stub)
    server.answers, server.seen = list(answers), []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetched(server, **access) -> bytes:
    from pipeline.ingest.sources.dicomweb import retrieve

    base = f"http://127.0.0.1:{server.server_port}/dicom-web"
    return retrieve(base, Access(**access), "1.2", "1.3", "1.4")


PART = b"--x\r\nContent-Type: application/dicom\r\n\r\nBYTES\r\n\x00\r\n--x--\r\n"
MULTIPART = {"Content-Type": 'multipart/related; type="application/dicom"; boundary="x"'}


def test_busy_servers_are_asked_again_with_the_token(monkeypatch):
    sized = MULTIPART | {"Content-Length": str(len(PART))}
    cut = MULTIPART | {"Content-Length": str(len(PART) + 10)}
    busy = (503, {"Retry-After": "0", "Content-Length": "0"}, b"")
    with rude(busy, (429, {"Retry-After": "0", "Content-Length": "0"}, b""), (200, cut, PART), (200, sized, PART)) as server:  # fmt: skip
        assert fetched(server, token="a token") == b"BYTES\r\n\x00"  # noqa: S106
    assert len(server.seen) == 4
    headers = server.seen[-1][1]
    assert headers["Authorization"] == "Bearer a token"
    assert "transfer-syntax=*" in headers["Accept"]
    with rude(busy) as server, pytest.raises(ImageError) as caught:
        fetched(server, attempts=3)
    assert caught.value.code == "UNREADABLE"
    assert caught.value.what == "the archive answers 503 for this instance"
    assert len(server.seen) == 3


def test_an_instance_larger_than_the_contract_takes_is_not_read_to_its_end():
    with rude((200, MULTIPART, PART + b"x" * 2_000_000)) as server:
        with pytest.raises(ImageError) as caught:
            fetched(server, most_bytes=1_000_000)
        assert len(fetched(server, most_bytes=3_000_000)) == 8
    assert caught.value.code == "TOO_LARGE"
    read = []
    with pytest.raises(ImageError):
        limited((read.append(k) or bytes(2**20) for k in range(1000)), 2**21)
    assert len(read) == 3


@given(st.binary(max_size=300), st.sampled_from(["", "multipart/related; boundary=x", "multipart/related", "multipart/related; boundary=\"", "a/b"]))  # fmt: skip
def test_any_answer_is_bytes_or_an_image_error(body, kind):
    try:
        found = first_part(body, kind)
    except ImageError:
        return
    assert found in body


@given(st.binary(max_size=200).filter(lambda data: b"--x" not in data))
def test_what_is_wrapped_comes_out(data):
    body = b"preamble\r\n--x\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--x--"
    assert first_part(body, "multipart/related; boundary=x") == data
    assert np.frombuffer(first_part(data, "application/dicom"), np.uint8).size == len(data)
