"""The pixel road against the usual recipe: pydicom (or Pillow), look-up tables, scaling, resize.

    python benchmarks/ingest/run.py

Reads ../shared/data/dicom (the six largest decodable single-frame files of each transfer syntax)
and draws a 6-megapixel photograph. One thread.
"""

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import interleaved, table  # noqa: E402

from data_schemas.contract import Contract  # noqa: E402
from data_schemas.errors import ImageError  # noqa: E402
from pipeline.imaging.prepare import prepare  # noqa: E402
from pipeline.imaging.read import read  # noqa: E402

ANY = Contract.model_validate({"name": "bench", "accept": {"frames": "first"}, "size": 512})
SHARED = ROOT.parent / "shared" / "data" / "dicom"
FILES_EACH = 6
ROUNDS = 7


def usual_dicom(data: bytes) -> Image.Image:
    """Do what tutorials do."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    pixels = dataset.pixel_array
    if pixels.ndim == 2:
        shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset).astype(np.float64)
        spread = max(float(np.ptp(shown)), 1e-9)
        pixels = ((shown - shown.min()) / spread * 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((512, 512), Image.Resampling.BOX)


def usual_photograph(data: bytes) -> Image.Image:
    """Do what tutorials do."""
    return Image.open(io.BytesIO(data)).convert("RGB").resize((512, 512), Image.Resampling.BILINEAR)


def road(data: bytes) -> object:
    """Take the one pixel road."""
    return prepare(read(data, ANY), ANY)


def files_by_syntax() -> dict[str, list[bytes]]:
    """Return readable single-frame files, the largest first, by transfer syntax."""
    with (SHARED / "index.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["frames"] in ("", "1")]
    rows.sort(key=lambda row: -int(row["bytes"]))
    found: dict[str, list[bytes]] = {}
    for row in rows:
        chosen = found.setdefault(row["transfer_syntax_name"] or "none", [])
        data = (SHARED / row["file"]).read_bytes()
        if len(chosen) < FILES_EACH and int(row["rows"] or 0) >= 250 and _both_read(data):
            chosen.append(data)
    return {name: chosen for name, chosen in found.items() if chosen}


def _both_read(data: bytes) -> bool:
    try:
        road(data)
        usual_dicom(data)
    except (ImageError, Exception):  # noqa: BLE001 - the usual recipe raises anything
        return False
    return True


def photograph() -> bytes:
    """Draw a textured 3000 x 2000 JPEG."""
    noise = np.random.default_rng(0).normal(0, 6, (2000, 3000, 3))
    slope = np.linspace(40, 200, 3000)[None, :, None]
    stream = io.BytesIO()
    pixels = np.clip(noise + slope, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def main() -> None:
    """Print the table."""
    import warnings

    warnings.simplefilter("ignore")
    rows: list[tuple[object, ...]] = []
    jpeg = photograph()
    groups = {"6-megapixel JPEG": ([jpeg], usual_photograph)}
    if SHARED.is_dir():
        for name, files in files_by_syntax().items():
            groups[name] = (files, usual_dicom)
    else:
        print(f"{SHARED} is missing: photographs only", file=sys.stderr)
    for name, (files, usual) in groups.items():
        variants = {
            "usual": lambda files=files, usual=usual: [usual(data) for data in files],
            "road": lambda files=files: [road(data) for data in files],
        }
        spent = interleaved(variants, ROUNDS)
        each = {key: value / len(files) for key, value in spent.items()}
        ratio = each["usual"] / max(each["road"], 1e-9)
        rows.append(
            (name, len(files), f"{each['usual']:.1f}", f"{each['road']:.1f}", f"{ratio:.2f}")
        )
    print(table(("input", "files", "usual, ms", "road, ms", "usual / road"), rows))


if __name__ == "__main__":
    main()
