"""Sources of files: folders, archives, DICOMDIR, lists, arrays. Whatever is broken ends as a refusal or one error."""

import bz2
import gc
import gzip
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.fileset import FileSet

from data_schemas.contract import Contract
from data_schemas.errors import DatasetError, HilumError, ImageError, UsageError
from data_schemas.progress import silent
from pipeline.ingest.ingest import ingest
from pipeline.ingest.sources import kept
from pipeline.ingest.sources.listing import Access, Listing
from pipeline.ingest.sources.open import open_source
from tests.ingest.conftest import KEY, dicom, drawn
from tests.ingest.test_s3 import png

FILES = {f"a/{k}.png": png(k) for k in range(4)} | {"b/scan": dicom(drawn(9), "MRN-1")}


def opened(source: Path, **access) -> Listing:
    return open_source(str(source), progress=silent, access=Access(**access))


def outcome(file):
    try:
        return file.fetch()
    except ImageError as error:
        return error.code


def outcomes(source: Path, **access):
    files = opened(source, **access).files
    assert len({file.place for file in files}) == len(files)
    return {file.place: outcome(file) for file in files}


def written(folder: Path, files=FILES) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(path: Path, files=FILES, method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def rolled(path: Path, files=FILES, mode="w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


PACKERS = {
    "x.zip": zipped,
    "stored.zip": lambda path: zipped(path, method=zipfile.ZIP_STORED),
    "lzma.zip": lambda path: zipped(path, method=zipfile.ZIP_LZMA),
    "x.tar": rolled,
    "x.tar.gz": lambda path: rolled(path, mode="w:gz"),
    "x.tgz": lambda path: rolled(path, mode="w:gz"),
    "x.tar.bz2": lambda path: rolled(path, mode="w:bz2"),
    "x.tar.xz": lambda path: rolled(path, mode="w:xz"),
}


@pytest.mark.parametrize("name", PACKERS)
def test_an_archive_holds_the_same_as_its_folder(name, tmp_path):
    source = PACKERS[name](tmp_path / name)
    assert outcomes(source) == FILES
    written(tmp_path / "deep")
    source.rename(tmp_path / f"deep/a/{name}")
    within = outcomes(tmp_path / "deep")
    assert within == FILES | {f"a/{name}/{place}": data for place, data in FILES.items()}


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, None]
)
@pytest.mark.parametrize("first", ["a.png", "PK_1.png"])
def test_a_zip_at_the_end_of_a_tar_is_a_member(form, first, tmp_path):
    inner = zipped(tmp_path / "labels.xlsx").read_bytes()
    files = {first: png(1), "labels.xlsx": inner}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form or tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = bytearray(stream.getvalue())
    if form is None:  # a tar of before POSIX has no mark, only checksums
        for header in (0, data.index(b"labels.xlsx\0")):
            data[header + 257 : header + 265] = bytes(8)
            total = sum(data[header : header + 512]) - sum(data[header + 148 : header + 156]) + 256
            data[header + 148 : header + 156] = b"%06o\0 " % total
    (tmp_path / "x.tar").write_bytes(data)
    assert outcomes(tmp_path / "x.tar") == files


def test_a_zip_behind_a_program_is_still_one(tmp_path):
    source = zipped(tmp_path / "x.zip")
    source.write_bytes(b"MZ" + bytes(1000) + source.read_bytes())
    assert outcomes(source) == FILES


def test_folder_zip_tar_and_list_are_one_data_set(tmp_path):
    folder = written(tmp_path / "in")
    (tmp_path / "list.txt").write_text("\n".join(f"in/{name}" for name in FILES))
    sources = [folder, zipped(tmp_path / "x.zip"), rolled(tmp_path / "x.tgz", mode="w:gz"), tmp_path / "list.txt"]  # fmt: skip
    contract = Contract(name="tiny", size=16)
    found = {
        ingest(
            source, None, tmp_path / f"out{k}", contract, key=KEY, progress=silent
        ).content_sha256
        for k, source in enumerate(sources)
    }
    assert len(found) == 1
    # nothing was unpacked beside the archives
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("out")} == {"in", "x.zip", "x.tgz", "list.txt"}  # fmt: skip


def _digests(files) -> list[bytes]:
    return [file.fetch() for file in files]


@pytest.mark.own_process
def test_other_processes_read_any_order(tmp_path):
    files = {f"{k:03d}": os.urandom(5000) for k in range(60)}
    for source in (zipped(tmp_path / "x.zip", files), rolled(tmp_path / "x.tgz", files, "w:gz")):
        listed = opened(source).files
        listed[30].fetch()  # this process holds the archive open, in its middle
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            halves = pool.map(_digests, [listed[::-2], listed[::2]])
            assert sorted(b for half in halves for b in half) == sorted(files.values())


def test_archives_kept_open_are_few_and_closed(tmp_path):
    sources = [zipped(tmp_path / f"{k}.zip") for k in range(20)]
    files = [file for source in sources for file in opened(source).files]
    before = len(list(Path("/proc/self/fd").iterdir()))
    for file in files + files[::-1]:
        assert isinstance(file.fetch(), bytes)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + kept._MOST


def test_links_circles_and_odd_names(tmp_path):
    folder = written(tmp_path / "in")
    outside = written(tmp_path / "outside", {"o.png": png(7)})
    (folder / "circle").symlink_to(folder)
    (folder / "a/away").symlink_to(outside)
    (folder / "again").symlink_to(folder / "a")
    (folder / "one.png").symlink_to(outside / "o.png")
    (folder / "broken.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe")
    (folder / ".hidden").write_bytes(b"x")
    written(folder / ".deep", {"b/x.png": png(9)})
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(png(8))
    listing = opened(folder)
    found = {file.place: outcome(file) for file in listing.files}
    assert found == FILES | {
        "one.png": png(7), "a/away/o.png": png(7), "caf\\xe9.png": png(8)
    }  # fmt: skip
    for file in listing.files:
        file.place.encode()
    assert set(listing.remarks) == {"1 hidden file doesn't count", "1 hidden folder, with all that is in it, doesn't count", "1 link leads nowhere", "1 entry is no regular file"}  # fmt: skip


def test_a_file_that_goes_or_changes_is_one_refusal(tmp_path):
    folder = written(tmp_path / "in")
    zipped(folder / "x.zip")
    files = opened(folder).files
    (folder / "a/0.png").unlink()
    zipped(folder / "x.zip", {"a/0.png": b"other"})
    found = {file.place: outcome(file) for file in files}
    assert found["a/0.png"] == "UNREADABLE"
    assert found["x.zip/a/0.png"] == "UNREADABLE"
    assert found["a/1.png"] == FILES["a/1.png"]


def encrypted(path: Path, files=FILES) -> Path:
    """Set the bit of encryption; what follows is then nonsense, as it is without the password."""
    data = bytearray(zipped(path, files).read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 1)
    path.write_bytes(data)
    return path


def test_encrypted_broken_and_nested_archives(tmp_path):
    with pytest.raises(DatasetError, match="encrypted"):
        opened(encrypted(tmp_path / "secret.zip"))
    whole = zipped(tmp_path / "x.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="ends before its directory") as caught:
        opened(tmp_path / "cut.zip")
    assert caught.value.mend == "copy or download it again"
    (tmp_path / "junk.tar").write_bytes(b"junk" * 500)
    with pytest.raises(DatasetError, match="no zip or tar archive"):
        opened(tmp_path / "junk.tar")
    folder = written(tmp_path / "in")
    for name in ("secret.zip", "cut.zip", "junk.tar"):
        (tmp_path / name).rename(folder / name)
    zipped(folder / "outer.zip", {"inner.zip": whole, "a.png": png(1), "__MACOSX/._a.png": b"x"})
    found = outcomes(folder)
    assert {place: code for place, code in found.items() if isinstance(code, str)} == {
        "secret.zip": "UNREADABLE",
        "cut.zip": "TRUNCATED",
        "junk.tar": "CORRUPT",
        "outer.zip/inner.zip": "NOT_AN_IMAGE",
    }
    assert found["outer.zip/a.png"] == png(1)
    assert len(found) == len(FILES) + 5


def test_damaged_members_cost_themselves_only(tmp_path):
    files = {f"{k}": os.urandom(4000) for k in range(6)}
    path = zipped(tmp_path / "x.zip", files, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.find(files["2"]) + 7] ^= 1
    path.write_bytes(data)
    assert outcomes(path) == files | {"2": "CORRUPT"}
    # a tar whose third header is damaged: tarfile stops there without a word
    path = rolled(tmp_path / "x.tar", files)
    data = bytearray(path.read_bytes())
    data[2 * (4096 + 512) + 100] ^= 1
    path.write_bytes(data)
    listing = opened(path)
    assert [outcome(file) for file in listing.files] == [files["0"], files["1"], "TRUNCATED"]
    assert "later" in listing.remarks[0] or "lost" in listing.remarks[0]
    # cut in the middle, plain and compressed
    whole = rolled(tmp_path / "y.tar", files).read_bytes()
    for name, cut in (("c.tar", whole[:12000]), ("c.tgz", gzip.compress(whole, 0)[:12000]), ("c.tar.bz2", bz2.compress(whole)[:-4000])):  # fmt: skip
        (tmp_path / name).write_bytes(cut)
        with_error = outcomes(tmp_path / name) if name != "c.tar.bz2" else {"x": "TRUNCATED"}
        assert "TRUNCATED" in with_error.values()
    assert "CORRUPT" not in outcomes(tmp_path / "c.tar").values()


def test_bombs_are_refused_for_the_price_of_a_directory(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(50_000_000))
        archive.writestr("a.png", png(1))
    assert outcomes(tmp_path / "bomb.zip", most_bytes=10**6) == {
        "zeros.png": "TOO_LARGE",
        "a.png": png(1),
    }
    # a directory that lies about the size: no more than it says is ever unpacked
    data = (tmp_path / "bomb.zip").read_bytes()
    true, lie = (50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    (tmp_path / "lie.zip").write_bytes(data.replace(true, lie))
    found = outcomes(tmp_path / "lie.zip", most_bytes=10**6)
    assert found == {"zeros.png": "CORRUPT", "a.png": png(1)}
    # two entries of the directory share their bytes
    with zipfile.ZipFile(tmp_path / "overlap.zip", "w") as archive:
        archive.writestr("a", bytes(3000))
        archive.writestr("b", bytes(3000))
        archive.filelist[1].header_offset = archive.filelist[0].header_offset
    assert set(outcomes(tmp_path / "overlap.zip").values()) == {"CORRUPT"}


def test_names_that_repeat_and_names_that_climb(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png(2))
        archive.writestr("../../up.png", png(3))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "a.png")
    found = {"a.png": png(1), "a.png#2": png(2), "../../up.png": png(3)}
    assert outcomes(tmp_path / "x.zip") == found
    assert "1 link" in " ".join(opened(tmp_path / "x.zip").remarks)


@given(st.binary(max_size=400), st.sampled_from(["x.zip", "x.tar", "x.tar.gz", "DICOMDIR", "x.npz", "x.txt"]), st.integers(0, 10**6))  # fmt: skip
def test_any_bytes_are_a_source_or_an_error_of_ours(tmp_path_factory, data, name, place):
    folder = tmp_path_factory.mktemp("any")
    path = folder / name
    if name in PACKERS:  # a sound archive with one stretch of nonsense in it
        whole = PACKERS[name](path).read_bytes()
        at = place % len(whole)
        data = whole[:at] + data + whole[at + len(data) :]
    path.write_bytes(data)
    try:
        for file in opened(path).files:
            assert isinstance(outcome(file), bytes | str)
    except HilumError:
        return


@pytest.fixture
def disc(tmp_path):
    """A DICOMDIR of five instances, as pydicom writes it, with a stranger beside."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # pydicom leaves its temporary folders to gc
        _write_disc(tmp_path / "disc")
        gc.collect()
    (tmp_path / "disc/README").write_bytes(png(9))
    return tmp_path / "disc"


def _write_disc(folder: Path) -> None:
    files = FileSet()
    for k in range(5):
        data = pydicom.dcmread(io.BytesIO(dicom(drawn(k), f"P{k // 2}")))
        data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.{k // 2}", f"1.3.{k // 2}"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.4.{k}"
        data.StudyDate, data.StudyTime, data.StudyID = "20200101", "101010", "1"
        data.SeriesNumber = data.InstanceNumber = k
        files.add(data)
    files.write(folder)


def test_a_dicomdir_names_its_files(disc):
    for source in (disc, disc / "DICOMDIR"):
        listing = opened(source)
        assert len(listing.files) == 5
        assert all(file.fetch()[128:132] == b"DICM" for file in listing.files)
        assert listing.remarks == ("1 file beside the DICOMDIR is not named by it and not taken",)
    # a copy in small letters with version numbers, and two files gone
    for path in [path for path in disc.rglob("*") if path.is_file() and path.name != "DICOMDIR"]:
        path.rename(path.with_name(f"{path.name.lower()};1"))
    gone = sorted(disc.rglob("im*;1"))[-2:]
    assert len(gone) == 2
    for path in gone:
        path.unlink()
    listing = opened(disc)
    assert len(listing.files) == 3
    assert "2 files that the DICOMDIR names are missing" in listing.remarks


def test_a_dicomdir_alone_or_broken_is_an_error(disc, tmp_path):
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    whole = (disc / "DICOMDIR").read_bytes()
    (lonely / "DICOMDIR").write_bytes(whole)
    with pytest.raises(DatasetError, match="none of the 5 files"):
        opened(lonely)
    (lonely / "DICOMDIR").write_bytes(whole[:300])
    with pytest.raises(DatasetError):
        opened(lonely)
    other = lonely / "renamed.dcm"
    other.write_bytes(whole)
    with pytest.raises(DatasetError, match="none of the 5 files"):
        opened(other)


def test_a_list_names_its_files_and_every_fault_by_line(tmp_path):
    written(tmp_path / "in")
    zipped(tmp_path / "in/x.zip", {"z.png": png(5)})
    (tmp_path / "list.csv").write_text(
        f'\ufeffimage;grade\nin/a/0.png;1\n\n"in/a/1.png";2\n{tmp_path}/in/b/scan;0\n# no\nin/x.zip;1\nin/a/0.png;0\n',
        encoding="utf-8",
    )
    listing = opened(tmp_path / "list.csv")
    assert [outcome(file) for file in listing.files] == [FILES["a/0.png"], FILES["a/1.png"], FILES["b/scan"], png(5)]  # fmt: skip
    assert "1 line names a file again" in listing.remarks
    (tmp_path / "bad.txt").write_text("in/a/0.png\nDoe_Jane.png\nin/a\ns3://bucket/x\n")
    with pytest.raises(DatasetError) as caught:
        opened(tmp_path / "bad.txt")
    assert caught.value.what.splitlines() == [
        "bad.txt:2: leads to no file",
        "bad.txt:3: is a folder, not a file",
        "bad.txt:4: is no path: objects are a source of their own",
    ]


def test_what_is_no_source_is_told(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        opened(tmp_path / "nothing")
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(UsageError, match="no source") as caught:
        opened(tmp_path / "a.png")
    assert "dicomweb+https" in (caught.value.mend or "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no files"):
        opened(tmp_path / "empty")


def small_medmnist(path: Path, count: int = 6, side: int = 8) -> Path:
    draw = np.random.default_rng(1)
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = draw.integers(0, 255, (count, side, side), np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez_compressed(path, **arrays)
    return path


def test_an_altered_medmnist_is_named_with_both_counts(tmp_path):
    listing = opened(small_medmnist(tmp_path / "breastmnist.npz"))
    assert "NOT the official file" in listing.remarks[0]
    assert "6 / 6 / 6" in listing.remarks[0]
    assert "546 / 78 / 156" in listing.remarks[0]
    assert listing.columns[0].classes == ("malignant", "normal or benign")
    again = pickle.loads(pickle.dumps(listing.files))  # noqa: S301 - our own; as another process gets it
    with np.load(tmp_path / "breastmnist.npz") as arrays:
        everything = [*arrays["train_images"], *arrays["val_images"], *arrays["test_images"]]
        for k in (17, 0, 9, 3, 4):
            assert (again[k].fetch() == everything[k]).all()
    splits = [file.given.split for file in listing.files]
    assert splits.count("tune") == splits.count("calibration") == 3
    assert splits.count("test") == sum(file.given.official_test for file in listing.files) == 6
