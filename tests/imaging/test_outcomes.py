"""How the shared DICOM files end: the committed page, memory, and every frame as an image."""

import importlib.util
import io
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate as in_items
from pydicom.uid import JPEGBaseline8Bit

from data_schemas import settings
from data_schemas.contract import Accept, Contract
from data_schemas.dataset import REFUSALS
from data_schemas.errors import ImageError
from pipeline.imaging.read import frames_in, instances, read

ROOT = Path(__file__).parents[2]
EVERY = Contract(name="every", accept=Accept(frames="every"))


@pytest.fixture(scope="module")
def outcomes():
    spec = importlib.util.spec_from_file_location("outcomes", ROOT / "benchmarks/outcomes/run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["outcomes"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(outcomes, shared_dicom):
    return outcomes.endings(shared_dicom)


@pytest.mark.needs_shared
def test_the_committed_page_is_what_the_code_does(outcomes, found):
    page = outcomes.page(found)
    assert page == outcomes.PAGE.read_text(encoding="utf-8"), "run benchmarks/outcomes/run.py"
    assert "NOT EXPLAINED" not in page


@pytest.mark.needs_shared
def test_every_file_another_reader_decodes_is_decoded_or_explained(outcomes, found):
    assert len(found) == 497
    assert {ending.outcome for ending in found} <= {"image", *REFUSALS}
    missed = {ending.name for ending in found if ending.readers and not ending.decoded}
    assert missed == set(outcomes.WHY)
    # the explanations speak of fuzz and bombs, so that is what the files must be
    rows = {ending.name: ending.row for ending in found}
    made = {name for name in missed if rows[name]["source_repo"] == "made for this set"}
    assert made == {"d10ba4e25bf7", "18b35e0db90d", "a10b5f0a9752", "cd8c977ce5a7"}
    assert all(rows[name]["source_repo"] == outcomes.FUZZ for name in missed - made)


@pytest.mark.needs_shared
def test_files_that_only_say_zero_say_zero(outcomes, shared_dicom):
    for name in (name for name, why in outcomes.WHY.items() if outcomes.ZEROS in why):
        data = (shared_dicom / f"{name}.dcm").read_bytes()
        place = data.rindex(b"\xe0\x7f\x10\x00O")
        assert not any(data[place + 12 :]), name


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    "tail",
    ["4.51", "4.57", "4.70", "4.80", "4.81", "4.110", "4.111", "4.112", "4.201", "4.202", "1.98", "1.99", "8.1"],
)  # fmt: skip
def test_syntaxes_that_must_decode(tail, found):
    group = [e for e in found if e.row["transfer_syntax_uid"] == f"1.2.840.10008.1.2.{tail}"]
    assert any(ending.decoded for ending in group)
    fuzz_or_bomb = {"CORRUPT", "TRUNCATED", "TOO_LARGE", "NOT_AN_IMAGE"}
    assert all(e.decoded or (not e.readers or e.outcome in fuzz_or_bomb) for e in group)


@pytest.mark.needs_shared
def test_all_files_in_one_process_stay_under_the_memory_limit(shared_dicom):
    script = (
        "import resource, runpy\n"
        "found = runpy.run_path('benchmarks/outcomes/run.py')['endings']()\n"
        "print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    files, peak = map(int, done.stdout.split())
    assert files == 497
    assert peak < 1536, f"{peak} MiB"


@pytest.mark.needs_shared
def test_every_frame_is_an_image_and_memory_stays_flat(shared_dicom):
    data = (shared_dicom / "ee1fcf71fecb.dcm").read_bytes()
    assert frames_in(data, EVERY) == 96
    tracemalloc.start()
    try:
        seen = []
        for instance in instances(data, EVERY):
            assert not isinstance(instance, ImageError)
            seen.append((instance.frame, instance.source_sha256))
        assert tracemalloc.get_traced_memory()[1] < 12 * instance.pixels.nbytes
    finally:
        tracemalloc.stop()
    assert [frame for frame, _ in seen] == list(range(96))
    assert len({digest for _, digest in seen}) == 1


def test_frames_of_native_objects(dicom_bytes):
    frames = np.arange(5 * 8 * 8, dtype=np.uint16).reshape(5, 8, 8)
    data = dicom_bytes(frames[0], NumberOfFrames=5).replace(frames[0].tobytes(), frames.tobytes())
    at = data.rindex(b"\xe0\x7f\x10\x00OW") + 8
    data = data[:at] + (5 * 128).to_bytes(4, "little") + data[at + 4 :]
    images = list(instances(data, EVERY))
    assert [image.frame for image in images] == [0, 1, 2, 3, 4]
    assert all((image.pixels == frames[k]).all() for k, image in enumerate(images))
    assert (read(data, EVERY, 3).pixels == frames[3]).all()
    with pytest.raises(ImageError) as refused:
        read(data, EVERY)
    assert refused.value.code == "MULTIFRAME"
    with pytest.raises(ImageError) as refused:
        list(instances(data, Contract(name="single")))
    assert refused.value.code == "MULTIFRAME"
    middle = list(instances(data, Contract(name="m", accept=Accept(frames="middle"))))
    assert [image.frame for image in middle] == [2]
    # cut in the third frame: two images, and one refusal for all that is missing
    *whole, last = instances(data[: -2 * 128 - 10], EVERY)
    assert [image.frame for image in whole] == [0, 1]
    assert "later frames are missing" in whole[0].warnings
    assert isinstance(last, ImageError)
    assert last.code == "TRUNCATED"


def test_a_frame_that_does_not_decode_stands_in_its_place(shared_dicom):
    data = bytearray((shared_dicom / "ee1fcf71fecb.dcm").read_bytes())
    starts, at = [], data.index(b"\xff\xd8\xff")
    while at >= 0:
        starts.append(at)
        at = data.find(b"\xff\xd8\xff", at + 3)
    data[starts[5] : starts[5] + 400] = bytes(400)
    found = list(instances(bytes(data), EVERY))
    assert len(found) == 96
    assert [k for k, one in enumerate(found) if isinstance(one, ImageError)] == [5]


def encapsulated(streams, claimed, dicom_bytes):
    """Return a JPEG object whose header claims so many frames, of 16 x 16 grey pixels."""
    data = dicom_bytes(np.zeros((16, 16), np.uint8))
    header = pydicom.dcmread(io.BytesIO(data))
    header.NumberOfFrames = claimed
    header.PixelData = in_items(streams)
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    out = io.BytesIO()
    header.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_a_frame_cut_short_costs_itself_only(dicom_bytes, picture_bytes):
    noise = np.random.default_rng(0).integers(0, 255, (4, 16, 16), np.uint8)
    streams = [picture_bytes(frame, "JPEG") for frame in noise]
    streams[1] = streams[1][: len(streams[1]) // 2]
    found = list(instances(encapsulated(streams, 4, dicom_bytes), EVERY))
    assert [getattr(one, "code", "") for one in found] == ["", "TRUNCATED", "", ""]
    # and where the object claims more than it holds, one refusal stands for the rest
    found = list(instances(encapsulated(streams, 4000, dicom_bytes), EVERY))
    assert [getattr(one, "code", "") for one in found] == ["", "TRUNCATED", "", "", "TRUNCATED"]


def test_a_rule_for_one_sop_class(dicom_bytes):
    data = dicom_bytes(np.arange(64, dtype=np.uint8).reshape(8, 8), NumberOfFrames=1)
    uid = "1.2.840.10008.5.1.4.1.1.7"
    accept = Accept(frames="refuse", frames_by_class={uid: "every"})
    assert len(list(instances(data, Contract(name="c", accept=accept)))) == 1


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "file", "code"),
    [
        ("mammogram", "6ab7a245fe57", "WRONG_PRESENTATION"),
        ("radiograph", "1225c4726410", "WRONG_PRESENTATION"),
        ("radiograph", "5d38cc99dbd0", "WRONG_MODALITY"),
        ("mammogram", "4d3b74695811", "WRONG_MODALITY"),
    ],
)
def test_contracts_refuse(name, file, code, shared_dicom):
    contract = settings.resolve(
        Contract, [settings.from_file(ROOT / f"configs/contracts/{name}.yaml")]
    )
    with pytest.raises(ImageError) as refused:
        read((shared_dicom / f"{file}.dcm").read_bytes(), contract)
    assert refused.value.code == code


def test_views(dicom_bytes):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    only = Contract(name="views", accept=Accept(views=("CC", "MLO")))
    assert read(dicom_bytes(pixels, ViewPosition="CC"), only).view == "CC"
    assert read(dicom_bytes(pixels), only).view == ""
    with pytest.raises(ImageError) as refused:
        read(dicom_bytes(pixels, ViewPosition="LL"), only)
    assert refused.value.code == "WRONG_VIEW"
