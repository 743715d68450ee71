"""Lossless values against a second decoder: pydicom's plugins and dcmtk's own programs."""

import csv
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

from data_schemas.errors import ImageError
from pipeline.imaging.read import read

pytestmark = pytest.mark.needs_shared


PYDICOM_READS = {
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
}


def _lossless(folder: Path) -> list[Path]:
    with (folder / "index.csv").open(encoding="utf-8") as stream:
        rows = [
            row for row in csv.DictReader(stream) if row["transfer_syntax_uid"] in PYDICOM_READS
        ]
    return [folder / row["file"] for row in rows]


def test_lossless_values_are_those_of_pydicoms_plugins(shared_dicom, anything):
    """Stored values agree, sample for sample, for every lossless compressed syntax."""
    pytest.importorskip("libjpeg", reason="needs pylibjpeg[all] (the extra dev)")
    pytest.importorskip("openjpeg", reason="needs pylibjpeg[all] (the extra dev)")
    pytest.importorskip("jpeg_ls", reason="needs pyjpegls (the extra dev)")
    syntaxes: dict[str, int] = {}
    for path in _lossless(shared_dicom):
        try:
            ours = read(path.read_bytes(), anything)
        except ImageError:
            continue
        if "the codestream is jpeg" in ours.warnings:
            continue  # lossy under a lossless label: decoders may differ by one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, force=True)
            if (
                "PALETTE" in header.get("PhotometricInterpretation", "")
                or header.get("BitsAllocated") == 1
            ):
                continue
            try:
                theirs = pydicom.pixels.pixel_array(header, index=0)
            except Exception:  # noqa: BLE001, S112 - the second opinion can't read it
                continue
        mine = ours.pixels
        if mine.ndim == 3 and mine.dtype == np.uint16:
            deep = int(header.BitsStored)
            theirs = theirs >> max(deep - 16, 0) << max(16 - deep, 0)
        assert (mine == theirs).all(), path.name
        syntax = header.file_meta.TransferSyntaxUID
        syntaxes[syntax] = syntaxes.get(syntax, 0) + 1
    assert set(syntaxes) == PYDICOM_READS
    assert sum(syntaxes.values()) >= 80


@pytest.mark.parametrize(
    ("program", "syntaxes", "least"),
    [
        ("dcmdjpeg", ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"), 15),
        ("dcmdjpls", ("1.2.840.10008.1.2.4.80",), 18),
        ("dcmdrle", ("1.2.840.10008.1.2.5",), 12),
    ],
)
def test_lossless_values_are_those_of_dcmtk(
    program, syntaxes, least, shared_dicom, anything, tmp_path
):
    if shutil.which(program) is None:
        pytest.skip(f"needs dcmtk ({program})")
    same = 0
    for path in _lossless(shared_dicom):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if header.file_meta.TransferSyntaxUID not in syntaxes:
            continue
        try:
            ours = read(path.read_bytes(), anything)
        except ImageError:
            continue
        plain = tmp_path / path.name
        done = subprocess.run([program, path, plain], capture_output=True, check=False)
        if done.returncode or not plain.is_file():
            continue
        theirs = read(plain.read_bytes(), anything)
        assert (ours.pixels == theirs.pixels).all(), path.name
        same += 1
    assert same >= least
