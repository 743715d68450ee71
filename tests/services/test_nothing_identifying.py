"""A DICOM object full of identifiers goes through the service: none is in receipts, log, answers or figures."""

import base64
import io

import pydicom
import pytest
from pydicom.datadict import dictionary_VM, keyword_dict
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from tests.services import drawn_files as drawn
from tests.services.conftest import log_with, serving, wait_until_ready
from tests.services.test_scores import post

TEXTS = {
    "PN": "Qzx^{}",
    "LO": "Qzx{}",
    "SH": "Qzx{}",
    "LT": "Qzx{}",
    "ST": "Qzx{}",
    "UT": "Qzx{}",
    "AE": "Qzx{}",
    "UC": "Qzx{}",
}
KEPT = {"SpecificCharacterSet", "Modality", "PhotometricInterpretation", "ImageLaterality"}
"""What must stay as it is for the object to be an image."""


def planted(**changes):
    """Return an object with a planted word in every attribute of text, and in private ones."""
    dataset = pydicom.dcmread(io.BytesIO(drawn.dicom(drawn.fundus(), **changes)))
    words = [drawn.PATIENT.split("^")[0], drawn.PATIENT.split("^")[1], drawn.PATIENT_ID]
    for keyword, tag in sorted(keyword_dict.items()):
        place = Tag(tag)
        if keyword in KEPT or place.group < 8 or not keyword or place in dataset:
            continue
        kind = pydicom.datadict.dictionary_VR(place)
        if kind in TEXTS and dictionary_VM(place).startswith("1"):
            word = f"{len(words):05d}"
            setattr(dataset, keyword, TEXTS[kind].format(word))
            words.append(f"Qzx{word}")
    dataset.PatientBirthDate, dataset.StudyDate = "19410203", "20250607"
    dataset.AccessionNumber = "ACC-998877"
    block = dataset.private_block(0x0009, "PlantedQzx", create=True)
    block.add_new(1, "LO", "PrivateQzx")
    inner = Dataset()
    inner.ReferringPhysicianName = "Qzx^Nested"
    dataset.ReferencedStudySequence = [inner]
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    words += [
        "19410203",
        "20250607",
        "ACC-998877",
        "PrivateQzx",
        "Nested",
        str(dataset.SOPInstanceUID),
    ]
    return stream.getvalue(), words


def broken(data):
    """Return objects that are refused in different places, with the same words in them."""
    yield data[: len(data) // 2]
    yield data[:4000]
    yield data[:200] + b"\xff" * 40 + data[240:]
    yield planted(PhotometricInterpretation="QZXPHOTO")[0]
    yield planted(Modality="QZXMOD")[0]
    yield planted(BitsAllocated=7)[0]
    yield planted(SamplesPerPixel=2)[0]


def sent(client, door, body):
    """Send an object to a door, with a patient's words wherever a client may put some."""
    text = base64.b64encode(body).decode()
    named = [("Muster", ("Qzx_Erika_Muster.dcm", body))]
    if door == "raw":
        return post(client, body, "?evidence=true", **{"X-Patient": drawn.PATIENT_ID})
    if door == "form":
        return client.post("/v1/scores?evidence=true", files=named)
    if door == "patient":
        return client.post("/v1/scores?evidence=true", files=named * 2)
    if door == "batch":
        return client.post("/v1/scores:batch?evidence=true", files=named * 2)
    if door == "v2":
        tensor = {"name": "files", "datatype": "BYTES", "shape": [1], "data": [text]}
        tree = {"inputs": [{**tensor, "parameters": {"Erika": "Muster"}}], "Muster": "Erika"}
        return client.post("/v2/models/small-fundus/infer", json=tree)
    table = {"columns": ["Muster", "image"], "data": [["Erika", text]], "index": ["Muster"]}
    return client.post("/invocations", json={"dataframe_split": table, "Muster": 1})


@pytest.fixture(scope="module")
def keeping(package, tmp_path_factory):
    """A service that keeps receipts, and their folder."""
    place = tmp_path_factory.mktemp("keeping")
    folder = place / "receipts"
    with serving(package.folder, place / "log", HILUM_RECEIPTS=str(folder)) as running:
        wait_until_ready(running)
        yield running, folder


@pytest.mark.parametrize("door", ["raw", "form", "patient", "batch", "v2", "mlflow"])
def test_nothing_that_identifies_leaves_the_service(keeping, door):
    running, folder = keeping
    data, words = planted()
    assert len(words) > 300
    found, statuses = [], []
    with running.client() as client:
        for body in (data, *broken(data)):
            answer = sent(client, door, body)
            statuses.append(answer.status_code)
            found.append(answer.content + str(answer.headers).encode())
        wrong = {"dataframe_split": {"columns": ["Muster", "Erika"], "data": [["Muster", 1]]}}
        found.append(client.post("/invocations", json=wrong).content)
        wrong = {"instances": ["Muster"], "params": {"Muster": "Erika"}}
        found.append(client.post("/invocations", json=wrong).content)
        found.append(client.get("/v2/models/Muster/versions/Erika").content)
        wrong = {"inputs": [{"name": "Muster", "datatype": "Erika"}], "outputs": ["Muster"]}
        found.append(client.post("/v2/models/small-fundus/infer", json=wrong).content)
        found.append(client.get("/v1/scores/Qzx00001?patient=Qzx00002").content)
        found.append(client.get("/metrics").content)
        last = client.get("/healthz").headers["x-request-id"]
    found.append(log_with(running, last).encode())
    assert statuses[0] == 200
    # a batch answers with the problems in it
    assert door == "batch" or sum(400 <= status < 500 for status in statuses) >= 3
    assert 500 not in statuses
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert len(kept) >= 3
    found += [path.read_bytes() + path.name.encode() for path in kept]
    everything = b"\n".join(found)
    met = [word for word in words if word.encode() in everything]
    assert met == []
