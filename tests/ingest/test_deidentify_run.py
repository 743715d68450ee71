"""The run: real files, the log, stops and starts, what is set aside."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom import dcmread

from data_schemas.contract import Limits
from data_schemas.errors import ImageError, UsageError
from data_schemas.files import sha256
from data_schemas.progress import silent
from pipeline.imaging.read import read
from pipeline.ingest.deidentify.burned_in import compared
from pipeline.ingest.deidentify.copying import Settings, clean_file
from pipeline.ingest.deidentify.deidentify import counts, deidentify
from pipeline.ingest.deidentify.dicom import clean_object
from pipeline.ingest.deidentify.profile import Choice
from pipeline.ingest.records import SourceFile
from tests.ingest import planted

ROOT = Path(__file__).parents[2]
KEY = b"a key for tests only"
SHARED = ROOT / "../shared/data/dicom"


def run(source, out, settings=None, key=KEY):
    return deidentify(str(source), out, settings or Settings(), key=key, progress=silent, workers=1)


def below(folder):
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    planted.plant(folder)
    return folder


@pytest.fixture(scope="module")
def clean(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "out"
    return out, run(archive, out)


def test_every_file_is_an_answer(clean, archive):
    out, outcomes = clean
    assert len(outcomes) == 16
    tree = counts(outcomes)
    assert tree["files"] == {"refused": 4, "written": 12}
    log = pq.read_table(out / "deidentified.parquet").to_pylist()
    digests = {sha256(path.read_bytes()) for path in archive.rglob("*") if path.is_file()}
    assert {row["source_sha256"] for row in log} == digests
    for row in log:
        assert (row["status"] == "written") == bool(row["file"])
        assert not row["file"] or (out / row["file"]).is_file()


def test_files_of_one_patient_lie_together(clean):
    _, outcomes = clean
    dicom = {o.file.rpartition("/")[0] for o in outcomes if o.file.endswith(".dcm")}
    assert len(dicom) == 1
    assert len(dicom.pop().split("/")) == 3


def test_a_second_run_changes_nothing_and_reads_no_pixel(clean, archive, monkeypatch):
    out, _ = clean
    before = below(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    run(archive, out)
    assert below(out) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_another_key_or_other_options_need_another_folder(clean, archive):
    out, _ = clean
    with pytest.raises(UsageError, match="another key"):
        run(archive, out, key=b"another key for tests")
    with pytest.raises(UsageError, match="other options"):
        run(archive, out, Settings(Choice("keep")))


def test_folders_that_hold_something_else_are_left_alone(archive, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run(archive, tmp_path)
    with pytest.raises(UsageError, match="inside the source"):
        run(tmp_path, tmp_path / "out")


def test_a_lost_file_is_made_again(clean, archive, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(clean[0], out)
    before = below(out)
    for path in out.rglob("*.dcm"):
        path.unlink()
    run(archive, out)
    assert below(out) == before


@pytest.mark.parametrize("code", ["TIMED_OUT", "DECODER_DIED"])
def test_what_timed_out_or_crashed_is_tried_again(code, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "1.dcm").write_bytes(planted.dicom(1))
    (source / "2.dcm").write_bytes(b"no image")
    run(source, out)
    before = below(out)
    log = pq.read_table(out / "deidentified.parquet")
    rows = log.to_pylist()
    for row in rows:
        if row["status"] == "written":
            (out / row["file"]).unlink()
            row |= {"status": "refused", "file": "", "code": code, "reason": "took too long"}
    pq.write_table(pa.Table.from_pylist(rows, log.schema), out / "deidentified.parquet")
    outcomes = run(source, out)
    assert sorted(outcome.status for outcome in outcomes) == ["refused", "written"]
    assert below(out) == before


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / f"{number}.dcm").write_bytes(planted.dicom(number))
    whole = tmp_path / "whole"
    run(source, whole)
    program = (
        "import sys; from pathlib import Path; from tests.ingest.test_deidentify_run import run;"
        "run(sys.argv[1], Path(sys.argv[2]))"
    )
    kills = 0
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        for wanted in (1 + 7 * attempt, 25 + 9 * attempt):
            process = subprocess.Popen([sys.executable, "-c", program, source, out], cwd=ROOT)
            while process.poll() is None and len(list(out.rglob("*.dcm"))) < wanted:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        run(source, out)
        assert below(out) == below(whole)
    assert kills >= 4


def photograph_of(text, size=20):
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(planted.pixels(3, 256))
    ImageDraw.Draw(picture).text((5, 5), text, font=ImageFont.load_default(size), fill="white")
    return planted.jpeg(np.array(picture))


def test_text_in_the_picture_is_set_aside_and_a_side_marker_is_not(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "named.jpg").write_bytes(photograph_of("Zwanzigmann 1947"))
    (source / "marker.jpg").write_bytes(photograph_of("L"))
    outcomes = run(source, tmp_path / "out")
    assert sorted((o.status, o.code) for o in outcomes) == [
        ("set aside", "BURNED_IN_TEXT"),
        ("written", ""),
    ]
    with (tmp_path / "out" / "set-aside.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["source_sha256"] for row in rows] == [sha256((source / "named.jpg").read_bytes())]
    kept = run(source, tmp_path / "kept", Settings(keep_burned_in=True))
    assert sorted((o.status, o.code) for o in kept) == [
        ("written", ""),
        ("written", "BURNED_IN_TEXT"),
    ]


def tiff_of(*pages, **options):
    import io

    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:], **options)
    return out.getvalue()


def named_page(mode="L", ink=255):
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new(mode, (320, 200))
    font = ImageFont.load_default(24)
    ImageDraw.Draw(page).text((20, 40), "Zwanzigmann 1947", font=font, fill=ink)
    return page


def faint(form):
    """Return a name in 12 bits of 16, which a viewer shows black unless it is told to stretch."""
    import io

    from PIL import Image

    grey = np.asarray(named_page()).astype(np.uint16) * 16
    out = io.BytesIO()
    Image.fromarray(grey).save(out, form)
    return out.getvalue()


HIDDEN = {
    "bilevel": lambda: tiff_of(named_page("1", 255), compression="group4"),
    "bilevel, dark on light": lambda: tiff_of(
        named_page("1", 255), compression="group4", tiffinfo={262: 0}
    ),
    "12 bits in a TIFF": lambda: faint("TIFF"),
    "12 bits in a PNG": lambda: faint("PNG"),
    "second of five pages": lambda: tiff_of(
        *[named_page("L", 255 if k == 1 else 0) for k in range(5)]
    ),
    "fourth of five bilevel pages": lambda: tiff_of(
        *[named_page("1", 255 * (k == 3)) for k in range(5)]
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_text_that_a_viewer_can_bring_out_is_set_aside(kind, tmp_path):
    file = SourceFile("x", HIDDEN[kind])
    (outcome,) = clean_file(file, tmp_path, Settings(), KEY, frozenset())
    assert (outcome.status, outcome.code) == ("set aside", "BURNED_IN_TEXT")


def test_pages_without_text_are_written(tmp_path):
    file = SourceFile("x", lambda: tiff_of(*[named_page("1", 0)] * 3))
    (outcome,) = clean_file(file, tmp_path, Settings(), KEY, frozenset())
    assert outcome.status == "written"


@pytest.mark.parametrize(
    ("annotation", "modality", "status"),
    [
        ("YES", "OP", "set aside"),
        ("", "US", "set aside"),
        ("NO", "US", "written"),
        ("", "OP", "written"),
    ],
)
def test_the_header_can_set_a_file_aside(annotation, modality, status, tmp_path):
    import io

    h = dcmread(io.BytesIO(planted.dicom(1)))
    h.BurnedInAnnotation, h.Modality = annotation, modality
    stream = io.BytesIO()
    h.save_as(stream)
    data = stream.getvalue()
    file = SourceFile("x.dcm", lambda: data)
    (outcome,) = clean_file(file, tmp_path, Settings(), KEY, frozenset())
    assert outcome.status == status


def test_a_fault_of_the_cleaner_is_one_refusal(tmp_path):
    def broken():
        raise RuntimeError(planted.PATIENT_ID)

    (outcome,) = clean_file(SourceFile("x", broken), tmp_path, Settings(), KEY, frozenset())
    assert (outcome.status, outcome.code) == ("refused", "UNREADABLE")
    assert planted.PATIENT_ID not in json.dumps(outcome.reason)


REAL = ("fa4b62ab3535", "469e8b7e4f21", "fc513c8342a1", "5d38cc99dbd0", "2427fdc82d90", "094059ada0ce", "ee1fcf71fecb", "b316df65a66d", "0029ebbba17e", "fe40ee7ed0cd", "37757f88cc30", "0c9a6d9fea4e", "549400d846ec", "a723a083e446", "be16d3f5094b", "2b669676d68d", "c6f5b60e1711", "218356eb8b36", "91f9b32a5cd1", "957f34397c26", "dd72a7f08855")  # fmt: skip

UNCOMPRESSED = ("469e8b7e4f21", "fc513c8342a1", "b316df65a66d", "549400d846ec", "2b669676d68d")


def real(name):
    path = SHARED / f"{name}.dcm"
    if not path.is_file():
        pytest.skip("needs ../shared/data/dicom")
    return path.read_bytes()


def errors_of(path):
    said = subprocess.run(
        ["dciodvfy", path], capture_output=True, text=True, errors="replace", check=False
    )
    return sum(line.startswith("Error") for line in said.stderr.splitlines())


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", REAL)
def test_a_real_file_keeps_its_pixels_and_stays_valid(name, tmp_path):
    data = real(name)
    made = clean_object(data, key=KEY, choice=Choice(), limits=Limits(), digest=sha256(data))
    assert list(compared(data, made.data, Limits()))
    source = dcmread(SHARED / f"{name}.dcm", force=True)
    (tmp_path / "clean.dcm").write_bytes(made.data)
    clean = dcmread(tmp_path / "clean.dcm")
    if name in UNCOMPRESSED:
        assert clean.PixelData == source.PixelData[: len(clean.PixelData)]
        assert len(source.PixelData) - len(clean.PixelData) <= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes values that break their VR's rules
        left = planted_in(source) & planted_in(clean)
    assert left == set()
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy of dicom3tools")
    assert errors_of(tmp_path / "clean.dcm") <= errors_of(SHARED / f"{name}.dcm")


def planted_in(dataset):
    """Return names, identifiers and instance UIDs that stand anywhere in a data set."""
    return {
        str(element.value)
        for element in dataset.iterall()
        if str(element.value)
        and (
            element.VR == "PN"
            or element.keyword in ("PatientID", "AccessionNumber", "InstitutionName")
            or (element.VR == "UI" and not str(element.value).startswith("1.2.840.10008."))
        )
    }


@pytest.mark.needs_shared
@pytest.mark.slow
def test_all_shared_files_are_no_less_valid_than_before(tmp_path):
    if not SHARED.is_dir() or shutil.which("dciodvfy") is None:
        pytest.skip("needs ../shared/data/dicom and dciodvfy")
    worse, compared = [], 0
    for path in sorted(SHARED.glob("*.dcm")):
        data = path.read_bytes()
        try:
            assert list(compared(data, data, Limits()))
            made = clean_object(data, key=KEY, choice=Choice(), limits=Limits(), digest="d" * 64)
        except ImageError:
            continue
        assert list(compared(data, made.data, Limits()))
        target = tmp_path / "clean.dcm"
        target.write_bytes(made.data)
        said = subprocess.run(["dciodvfy", path], capture_output=True, check=False).stderr
        if b"Information Object Not found" in said:
            continue  # too broken for the validator to look at
        compared += 1
        if errors_of(target) > errors_of(path):
            worse.append(path.name)
    assert compared > 300
    assert worse == []


def test_the_clean_copy_is_an_image_for_ingest(clean):
    from data_schemas.contract import Contract

    out, outcomes = clean
    for outcome in outcomes:
        if outcome.file:
            contract = Contract(name="any")
            assert read((out / outcome.file).read_bytes(), contract).pixels.size
