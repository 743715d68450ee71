"""A DICOM object full of identifiers goes through the service: none is in receipts, log, answers or figures."""

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


@pytest.mark.parametrize("multipart", [False, True])
def test_nothing_that_identifies_leaves_the_service(package, tmp_path, multipart):
    data, words = planted()
    assert len(words) > 300
    found = []
    with serving(
        package.folder, tmp_path / "log", HILUM_RECEIPTS=str(tmp_path / "receipts")
    ) as running:
        wait_until_ready(running)
        with running.client() as client:
            statuses = []
            for body in (data, *broken(data)):
                if multipart:
                    files = {"file": ("Qzx_Erika_Muster.dcm", body)}
                    answer = client.post("/v1/scores?evidence=true", files=files)
                else:
                    answer = post(client, body, "?evidence=true", **{"X-Patient": "Qzx00001"})
                statuses.append(answer.status_code)
                found.append(answer.content + str(answer.headers).encode())
            found.append(client.get("/v1/scores/Qzx00001?patient=Qzx00002").content)
            found.append(client.get("/metrics").content)
            last = client.get("/healthz").headers["x-request-id"]
        found.append(log_with(running, last).encode())
    assert statuses[0] == 200
    assert sum(400 <= status < 500 for status in statuses) >= 3
    assert 500 not in statuses
    kept = [path for path in (tmp_path / "receipts").rglob("*") if path.is_file()]
    assert len(kept) >= 3
    found += [path.read_bytes() + path.name.encode() for path in kept]
    everything = b"\n".join(found)
    met = [word for word in words if word.encode() in everything]
    assert met == []
