"""The pixel road against the plain recipe and against its own bare floor, one row a bar.

    python benchmarks/ingest/run.py
    python benchmarks/ingest/run.py --only RLE     groups whose name holds this

Reads ../shared/data/dicom (of each group the six largest single-frame files of at least 250 pixels
a side that both recipes read) and ../shared/data/fundus_rahim (six full-size photographs), and draws
a 6-megapixel fundus photograph and a 2048 x 2048 radiograph. Every group in a fresh process on one core
with one thread; plain, road and bare in turn for every file, each timed call after an untimed one of its
own; CPU time, medians of rounds; a group's figure is the mean over its files. The second table has all
files of a class together, which is what the bars ask.
"""

import argparse
import csv
import io
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from drawn import fundus_jpeg, radiograph  # noqa: E402
from timing import interleaved, pinned, table  # noqa: E402

from data_schemas.contract import Contract  # noqa: E402
from data_schemas.errors import ImageError  # noqa: E402
from data_schemas.files import sha256  # noqa: E402
from pipeline.imaging import shrink  # noqa: E402
from pipeline.imaging.colour import apply_palette, unpack_ybr_422, ybr_full_to_rgb  # noqa: E402
from pipeline.imaging.prepare import prepare  # noqa: E402
from pipeline.imaging.read import read  # noqa: E402
from pipeline.imaging.resize import resample  # noqa: E402

SHARED = ROOT.parent / "shared" / "data" / "dicom"
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "fundus_rahim" / "full_size"
SIDE = 512
FILES_EACH = 6
LEAST_SIDE = 250
ROUNDS = 7
BARE_BAR = 1.15
"""Road over bare: no more than this."""
UNCOMPRESSED = {
    "1.2.840.10008.1.2": "implicit little endian",
    "1.2.840.10008.1.2.1": "explicit little endian",
    "1.2.840.10008.1.2.2": "explicit big endian",
}


def contract(channels: int, **changes: Any) -> Contract:
    """Return a contract that makes the array that the plain recipe makes: stretched to 512 x 512."""
    recipe = {"accept": {"frames": "first"}, "size": SIDE, "fit": "stretch", "channels": channels}
    return Contract.model_validate({"name": "bench", **recipe, **changes})


@dataclass(frozen=True)
class Case:
    """One file and the three ways through it."""

    data: bytes
    megapixels: float
    plain: Callable[[bytes], object]
    road: Callable[[bytes], object]
    bare: Callable[[bytes], object]


@dataclass(frozen=True)
class Plan:
    """Files that share a bar; ``least`` is the ratio plain / road to reach, 0 where none is set."""

    name: str
    least: float
    paths: tuple[Path, ...]
    kind: str = ""
    """Of a photograph or radiograph: which recipe; empty for the shared DICOM files."""


def plain_dicom(data: bytes) -> np.ndarray:
    """Do what tutorials do with a DICOM object."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    pixels = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
    elif pixels.ndim == 2:
        shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
        low, high = shown.min(), shown.max()
        pixels = ((shown - low) / max(float(high) - float(low), 1e-9) * 255).astype(np.uint8)
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def plain_photograph(data: bytes) -> np.ndarray:
    """Decode and resize with Pillow, aspect kept."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIDE / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def along_road(recipe: Contract) -> Callable[[bytes], object]:
    """Return the road: checks, digest, decode, levels, region, resize, channels."""
    return lambda data: prepare(read(data, recipe), recipe)


def bare_dicom(data: bytes, divisor: int, step: int) -> np.ndarray:
    """Parse, decode and resize with the road's own decoders, conversions and resize, nothing else.

    ``dcmread``, five attributes of the header, one decoder call, the least and greatest value and one
    table (or, where the road shrinks grey first, its block means and one line), palette or YCbCr
    if there is one, the road's resize. No digest, no limits, no sniffing, no other attribute.
    """
    header = pydicom.dcmread(io.BytesIO(data))
    rows, columns, photometric = header.Rows, header.Columns, header.PhotometricInterpretation
    values = _bare_values(header, divisor)
    if photometric == "PALETTE COLOR":
        table = [header[f"{name}PaletteColorLookupTableData"].value if f"{name}PaletteColorLookupTableData" in header else None for name in ("Red", "Green", "Blue")]  # fmt: skip
        if None in table:  # segmented: pydicom expands it
            return resample(_eight_bits(apply_color_lut(values, header)), (SIDE, SIDE))
        first = header.RedPaletteColorLookupTableDescriptor[1]
        deep = header.RedPaletteColorLookupTableDescriptor[2] > 8
        colours = np.stack([np.frombuffer(one, "<u2" if deep else "u1") for one in table], 1)
        colours = (colours >> 8).astype(np.uint8) if deep else colours
        return resample(apply_palette(values, first, colours), (SIDE, SIDE))
    if values.ndim == 3:
        return resample(values, (SIDE, SIDE))
    if step > 1:
        means, (low, high) = shrink.block_means(values, step, header.BitsStored)
        levels = ((means - low) * (255.0 / max(high - low, 1)) + 0.5).astype(np.uint8)
        return resample(levels, (SIDE, SIDE), (0, 0, columns / step, rows / step))
    low, high = int(values.min()), int(values.max())
    gain = 255.0 / max(high - low, 1)
    steps = np.arange(high - low + 1) * gain + 0.5
    places = values - values.dtype.type(low) if low else values
    if values.dtype.kind == "i":
        places = places.view(values.dtype.str.replace("i", "u"))
    return resample(steps.astype(np.uint8).take(places), (SIDE, SIDE))


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _bare_values(header: pydicom.Dataset, divisor: int) -> np.ndarray:
    rows, columns, samples = header.Rows, header.Columns, header.SamplesPerPixel
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
        if header.BitsAllocated == 1:
            bits = np.unpackbits(np.frombuffer(header.PixelData, np.uint8), bitorder="little")
            return bits[: rows * columns].reshape(rows, columns)
        if "PixelData" not in header:
            return header.pixel_array
        kind = f"{order}{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}"
        values = np.frombuffer(header.PixelData, kind)
        if header.PhotometricInterpretation == "YBR_FULL_422":
            return ybr_full_to_rgb(unpack_ybr_422(values[: rows * columns * 2], rows, columns))
        values = values[: rows * columns * samples]
        if samples == 3 and header.PlanarConfiguration:
            return np.ascontiguousarray(np.moveaxis(values.reshape(3, rows, columns), 0, -1))
        shape = (rows, columns, 3) if samples == 3 else (rows, columns)
        return values.reshape(shape).astype(values.dtype.newbyteorder("="), copy=False)
    frame = get_frame(header.PixelData, 0, number_of_frames=1)
    if syntax == "1.2.840.10008.1.2.5":
        decoded = imagecodecs.dicomrle_decode(frame, f"<u{header.BitsAllocated // 8}")
        planes = np.frombuffer(decoded, f"<u{header.BitsAllocated // 8}")
        shaped = planes.reshape(samples, rows, columns)
        return np.ascontiguousarray(np.moveaxis(shaped, 0, -1)) if samples == 3 else shaped[0]
    return _bare_stream(frame, (rows, columns), divisor)


def _bare_stream(frame: bytes, size: tuple[int, int], divisor: int) -> np.ndarray:
    if frame.startswith((b"\xff\x4f", b"\0\0\0\x0cjP")):
        return imagecodecs.jpeg2k_decode(frame)
    if b"\xff\xf7" in frame[:512]:
        return imagecodecs.jpegls_decode(frame)
    if divisor > 1:
        return _bare_scaled(frame, size, divisor)
    return imagecodecs.jpeg8_decode(frame)


def _bare_scaled(data: bytes, size: tuple[int, int], divisor: int) -> np.ndarray:
    small = (-(-size[1] // divisor), -(-size[0] // divisor))
    return np.asarray(Image.frombytes("RGB", small, data, "jpeg", "RGB", "", divisor, 0))


def bare_photograph(data: bytes, divisor: int, size: tuple[int, int]) -> np.ndarray:
    """Decode as small as the road does, and resize."""
    target = (round(size[0] * SIDE / max(size)), round(size[1] * SIDE / max(size)))
    return resample(_bare_scaled(data, size, divisor), target)


def dicom_case(data: bytes) -> Case | None:
    """Return a case if all three ways read the file, with the shrinking that the road chose."""
    channels = contract(3)
    try:
        instance = read(data, channels)
        recipe = contract(1 if instance.grey is not None else 3)
        view = shrink.view(instance, recipe)
        divisor = shrink.divisor(instance.rows, instance.columns, recipe, instance.aspect)
        step = view.step if instance.grey is not None else 1
        case = Case(
            data,
            instance.rows * instance.columns / 1e6,
            plain_dicom,
            along_road(recipe),
            lambda content: bare_dicom(content, divisor if instance.grey is None else 1, step),
        )
        for way in (case.plain, case.road, case.bare):
            way(data)
    except (ImageError, Exception):  # noqa: BLE001 - the plain recipe raises anything
        return None
    return case


def shared_groups() -> list[Plan]:
    """Return the groups of the shared DICOM files that have a bar, then those that have none."""
    with (SHARED / "index.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["frames"] in ("", "1")]
    rows = [row for row in rows if row["rows"].isdigit() and row["columns"].isdigit()]
    rows = [row for row in rows if min(int(row["rows"]), int(row["columns"])) >= LEAST_SIDE]
    rows.sort(key=lambda row: (-int(row["bytes"]), row["file"]))
    found: dict[tuple[str, float], list[Path]] = {}
    for row in rows:
        found.setdefault(_group_of(row), []).append(SHARED / row["file"])
    plans = [Plan(name, least, tuple(paths)) for (name, least), paths in found.items()]
    return sorted(plans, key=lambda plan: (plan.least == 0, plan.name))


def shared_cases(paths: tuple[Path, ...]) -> list[Case]:
    """Return the cases of the first files that all three ways read."""
    cases: list[Case] = []
    for path in paths:
        case = dicom_case(path.read_bytes()) if len(cases) < FILES_EACH else None
        if case is not None:
            cases.append(case)
    return cases


def _group_of(row: dict[str, str]) -> tuple[str, float]:
    uid, colour = row["transfer_syntax_uid"], row["samples"] == "3"
    kind = "colour" if colour else "grey"
    if row["photometric"] == "PALETTE COLOR":
        kind = "palette"
    if uid in UNCOMPRESSED:
        return f"uncompressed, {UNCOMPRESSED[uid]}, {kind}", 1.6
    tail = uid.removeprefix("1.2.840.10008.1.2.")
    return {
        "4.50": (f"JPEG Baseline, {kind}", 3.0 if colour else 0.0),
        "4.57": (f"JPEG Lossless, {kind}", 1.9),
        "4.70": (f"JPEG Lossless, {kind}", 1.9),
        "4.80": (f"JPEG-LS, {kind}", 1.7),
        "4.81": (f"JPEG-LS near-lossless, {kind}", 1.7),
        "4.90": (f"JPEG 2000 lossless, {kind}", 1.2),
        "4.91": (f"JPEG 2000, {kind}", 1.2),
        "5": (f"RLE, {kind}", 1.5),
    }.get(tail, (f"{row['transfer_syntax_name'] or 'no file meta'}, {kind}", 0.0))


def photograph_case(data: bytes, recipe: Contract) -> Case:
    """Return a case of a photograph, with the scale at which the road decodes it."""
    columns, rows = Image.open(io.BytesIO(data)).size
    divisor = shrink.divisor(rows, columns, recipe)
    return Case(
        data,
        rows * columns / 1e6,
        plain_photograph,
        along_road(recipe),
        lambda content: bare_photograph(content, divisor, (rows, columns)),
    )


def photograph_groups() -> list[Plan]:
    """Return the drawn photograph whole, the radiograph, real photographs, and both other recipes."""
    plans = [
        Plan("6-megapixel fundus JPEG, whole", 4.0, (), "whole"),
        Plan("radiograph 2048 x 2048, 16 bit", 5.0, (), "film"),
        Plan("6-megapixel fundus JPEG, its field", 0.0, (), "field"),
        Plan("6-megapixel fundus JPEG, shrink: exact", 0.0, (), "exact"),
    ]
    if PHOTOGRAPHS.is_dir():
        real = tuple(sorted(PHOTOGRAPHS.glob("*.jpg"))[:FILES_EACH])
        plans += [Plan("real fundus JPEG, whole", 0.0, real, "whole")]
        plans += [Plan("real fundus JPEG, its field", 0.0, real, "field")]
    return plans


def cases_of(plan: Plan) -> list[Case]:
    """Draw or read what a plan names."""
    if not plan.kind:
        return shared_cases(plan.paths)
    if plan.kind == "film":
        film = dicom_case(radiograph())
        return [] if film is None else [film]
    changes = {"whole": {"fit": "pad"}, "exact": {"fit": "pad", "shrink": "exact"}, "field": {"region": "fundus_field"}}  # fmt: skip
    recipe = contract(3, **changes[plan.kind])
    jpegs = [path.read_bytes() for path in plan.paths] or [fundus_jpeg()]
    return [photograph_case(data, recipe) for data in jpegs]


@dataclass(frozen=True)
class Measured:
    """A group's mean CPU milliseconds a file, each way."""

    name: str
    least: float
    files: int
    megapixels: float
    plain: float
    road: float
    bare: float
    digest: float

    def row(self) -> tuple[object, ...]:
        """Return its row of the table."""
        ratio, over = self.plain / self.road, self.road / self.bare
        without = (self.road - self.digest) / self.bare
        verdict = "passed" if ratio >= self.least else "missed"
        return (
            self.name, self.files, f"{self.megapixels:.2f}", f"{self.plain:.2f}",
            f"{self.road:.2f}", f"{ratio:.2f}", f"{self.least:.1f} {verdict}" if self.least else "",
            f"{self.bare:.2f}", f"{over:.2f}", "passed" if over <= BARE_BAR else "missed",
            f"{self.digest:.2f}", f"{without:.2f}",
        )  # fmt: skip


def measured(plan: Plan) -> Measured | None:
    """Time a group; ``None`` if not all ways read any file of it."""
    warnings.simplefilter("ignore")
    pinned()
    cv2.setNumThreads(1)
    cases = cases_of(plan)
    if not cases:
        return None
    spent = dict.fromkeys(("plain", "road", "bare", "digest"), 0.0)
    for case in cases:
        ways = {
            "plain": lambda case=case: case.plain(case.data),
            "road": lambda case=case: case.road(case.data),
            "bare": lambda case=case: case.bare(case.data),
            "digest": lambda case=case: sha256(case.data),
        }
        for name, value in interleaved(ways, ROUNDS).items():
            spent[name] += value / len(cases)
    megapixels = statistics.mean(case.megapixels for case in cases)
    return Measured(plan.name, plan.least, len(cases), megapixels, **spent)


CLASSES = ("uncompressed", "RLE", "JPEG Lossless", "JPEG-LS", "JPEG 2000", "JPEG Baseline, colour")
"""Of these the bars speak; a group belongs to the one that its name begins with."""


def by_class(groups: list[Measured]) -> list[Measured]:
    """Return each class as one group of all its files: what a folder with as many of each kind costs."""
    found = []
    for name in CLASSES:
        own = [group for group in groups if group.name.startswith(name)]
        if not own:
            continue
        files = sum(group.files for group in own)
        sums = {
            way: sum(getattr(group, way) * group.files for group in own) / files
            for way in ("megapixels", "plain", "road", "bare", "digest")
        }
        found.append(Measured(name, max(group.least for group in own), files, **sums))
    return found


HEAD = (
    "input", "files", "Mpx", "plain, ms", "road, ms", "plain / road", "bar", "bare, ms",
    "road / bare", "bar 1.15", "digest, ms", "road less digest / bare",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="groups whose name holds this")
    only = parser.parse_args().only
    plans = photograph_groups()
    if SHARED.is_dir():
        plans[2:2] = shared_groups()
    else:
        print(f"{SHARED} is missing: photographs only", file=sys.stderr)
    plans = [plan for plan in plans if only in plan.name]
    # one process a group, so that the memory that others leave behind doesn't matter
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as one:
        groups = [group for group in one.map(measured, plans) if group is not None]
    print(table(HEAD, [group.row() for group in groups]))
    print("\nAll files of a class together:\n")
    print(table(HEAD, [group.row() for group in by_class(groups)]))


if __name__ == "__main__":
    main()
