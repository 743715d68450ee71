"""A small mixed folder, drawn: photographs, DICOM, junk, faults, and a label table."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from data_schemas.contract import Contract
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest

KEY = b"a key for tests only"


@dataclass(frozen=True)
class Mixed:
    folder: Path
    labels: Path
    rows: list[dict[str, str]]


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)


def dicom(pixels: np.ndarray, patient: str, laterality: str = "L") -> bytes:
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1", "1.2.3"
    header.Modality, header.PatientID, header.PatientName = "OP", patient, "Doe^Jane"
    header.ImageLaterality = laterality
    header.Rows, header.Columns, header.SamplesPerPixel = *pixels.shape[:2], 3
    header.PhotometricInterpretation, header.PlanarConfiguration = "RGB", 0
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation = 7, 0
    header.PixelData = pixels.tobytes()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_labels(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def mixed(tmp_path: Path) -> Mixed:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    rows: list[dict[str, str]] = []

    def row(name: str, patient: str, grade: str, note: str = "x") -> None:
        rows.append({"image": name, "patient": patient, "grade": grade, "Referable DR": str(int(grade >= "2")) if grade else "", "note": note})  # fmt: skip

    for k in range(6):
        name = f"deep/photo{k}.{'png' if k % 2 else 'tif'}"
        Image.fromarray(drawn(k)).save(folder / name)
        row(name, f"P{k // 2}", str(k % 4))
    for k in range(2):
        (folder / f"scan{k}").write_bytes(dicom(drawn(10 + k), f"MRN-{k}"))
        row(f"scan{k}", "", "1")
    # equal pixels: once with the same labels, once with others
    Image.fromarray(drawn(0)).save(folder / "again.png")
    row("again.png", "P0", "0")
    Image.fromarray(drawn(20)).save(folder / "one.png")
    Image.fromarray(drawn(20)).save(folder / "two.tif")
    row("one.png", "P8", "0")
    row("two.tif", "P9", "3")
    Image.fromarray(drawn(21)).save(folder / "unnamed.png")
    Image.fromarray(drawn(22)).save(folder / "ungraded.png")
    row("ungraded.png", "P10", "")
    png = (folder / "deep/photo1.png").read_bytes()
    (folder / "cut.png").write_bytes(png[:200])
    row("cut.png", "P11", "0")
    (folder / "readme.txt").write_text("not an image")
    (folder / ".hidden").write_text("never counted")
    Image.fromarray(np.full((9, 9, 3), 50, np.uint8)).save(folder / "blank.png")
    row("blank.png", "P12", "0")
    labels = folder / "labels.csv"
    write_labels(labels, rows)
    return Mixed(folder, labels, rows)


@pytest.fixture
def contract() -> Contract:
    return Contract(name="tiny", size=16)


@pytest.fixture
def take_in(contract, tmp_path):
    """Return a function that ingests with the tests' key."""

    def run(source: Path, table: Path | None, folder: str = "dataset", **options):
        target = tmp_path / folder
        info = ingest(
            source, table, target, contract, key=KEY, progress=silent, options=Options(**options)
        )
        return info, target

    return run
