"""Files with identifiers planted wherever they can stand, and the search for them in any bytes."""

import base64
import gzip
import io
import itertools
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

NAME = "Zwanzigmann^Quirina"
UMLAUT_NAME = "Überröther^Käthe"
KANJI_NAME = "Yamada^Tarou=山田^太郎=やまだ^たろう"
PATIENT_ID = "KH-4711-0815-Q"
UIDS = {
    "instance": "1.3.6.1.4.1.99999.20261123.7731.1",
    "study": "1.3.6.1.4.1.99999.20261123.7731.2",
    "series": "1.3.6.1.4.1.99999.20261123.7731.3",
    "referenced": "1.3.6.1.4.1.99999.20261123.7731.4",
}
PLANTED: tuple[str, ...] = (
    "Zwanzigmann",
    "Quirina",
    "Überröther",
    "Käthe",
    "山田",
    "太郎",
    "山田^太郎",
    "やまだ",
    PATIENT_ID,
    "OTHER-ID-66420",
    "NESTED-ID-90210",
    "ACC-20261123-77",
    "St. Hildegund Hospital",
    "Rosenkavalierstrasse",
    "Drqvist",
    "Opratorsson",
    "19470311",
    "20191224",
    "142536.123456",
    "lives next to the mill",
    "PRIVATE-SECRET-321",
    "STATIONX77",
    "SERIAL-55512",
    "REQPROC-8812",
    "LOCALCODE77",
    "meaning of a local code",
    "PREAMBLE-SECRET",
    "AETITLE-99",
    "OVERLAYTEXT",
    "TRAILINGTEXT",
    "JPEGCOMMENT-730101-1234",
    "AFTER-EOI-SECRET",
    "EXIF-ARTIST-MUELLERIN",
    "MAKERNOTE-9981",
    "2014:05:06 07:08:09",
    "XMP-CREATOR-HUBERT",
    "PNGTEXT-ANNELIESE",
    "ZTXT-BRUNHILDE",
    "ITXT-KUNIGUNDE",
    "TIFF-DESCRIPTION-OTTILIE",
    "TIFF-ARTIST-WALBURGA",
    "ICC-DESCRIPTION-IRMGARD",
    "FILENAME-ADELHEID",
    "FOLDER-SIEGLINDE",
    "TABLEPATIENT-4242",
    *UIDS.values(),
)
"""Every identifier that :func:`plant` hides somewhere."""


def pixels(seed: int, side: int = 64) -> np.ndarray:
    grid = np.add.outer(np.arange(side), np.arange(side))
    tint = np.random.default_rng(seed).integers(20, 200, 3)
    return ((grid[..., None] + tint) % 256 // 2 + 40 + seed % 50).astype(np.uint8)


def header(seed: int, charset: str = "ISO_IR 192", name: str = NAME) -> Dataset:
    h = Dataset()
    h.SpecificCharacterSet = charset.split("\\") if "\\" in charset else charset
    h.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    h.SOPInstanceUID = f"{UIDS['instance']}.{seed}"
    h.StudyInstanceUID, h.SeriesInstanceUID = UIDS["study"], UIDS["series"]
    h.Modality, h.ImageType, h.ImageLaterality = "OP", ["ORIGINAL", "PRIMARY"], "L"
    h.PatientName, h.PatientID = name, PATIENT_ID
    h.OtherPatientIDs, h.PatientBirthDate, h.PatientSex = "OTHER-ID-66420", "19470311", "F"
    h.PatientAge, h.PatientAddress = "093Y", "Rosenkavalierstrasse 5"
    h.PatientComments = "lives next to the mill"
    h.AccessionNumber, h.StudyID = "ACC-20261123-77", "REQPROC-8812"
    h.InstitutionName, h.StationName = "St. Hildegund Hospital", "STATIONX77"
    h.ReferringPhysicianName, h.OperatorsName = "Drqvist^Per", "Opratorsson^Nils"
    h.DeviceSerialNumber = "SERIAL-55512"
    h.StudyDate = h.SeriesDate = h.AcquisitionDate = h.ContentDate = "20191224"
    h.StudyTime = h.ContentTime = "142536.123456"
    h.AcquisitionDateTime = "20191224142536.123456"
    h.StudyDescription = f"for {name.split('^')[0]}"
    h.ImageComments = "lives next to the mill"
    h.Manufacturer, h.ManufacturerModelName = "Acme", f"{name.split('^')[0]} edition"
    h.Rows = h.Columns = 64
    h.SamplesPerPixel, h.PhotometricInterpretation, h.PlanarConfiguration = 3, "RGB", 0
    h.BitsAllocated = h.BitsStored = 8
    h.HighBit, h.PixelRepresentation = 7, 0
    add_sequences(h, name)
    add_groups(h, name)
    return h


def add_sequences(h: Dataset, name: str) -> None:
    deep, request, code, other = Dataset(), Dataset(), Dataset(), Dataset()
    deep.PatientName, deep.PatientID = name, "NESTED-ID-90210"
    deep.ReferencedSOPInstanceUID = UIDS["referenced"]
    deep.ReferencedSOPClassUID = h.SOPClassUID
    request.RequestedProcedureID, request.ScheduledProcedureStepDescription = "REQPROC-8812", NAME
    request.ReferencedImageSequence = Sequence([deep])
    h.RequestAttributesSequence = Sequence([request])
    code.CodeValue, code.CodingSchemeDesignator = "LOCALCODE77", "99KH"
    code.CodeMeaning = "meaning of a local code"
    h.AnatomicRegionSequence = Sequence([code])
    other.PatientID, other.TypeOfPatientID = "NESTED-ID-90210", "TEXT"
    h.OtherPatientIDsSequence = Sequence([other])
    h.SourceImageSequence = Sequence([deep])


def add_groups(h: Dataset, name: str) -> None:
    """Private attributes, an overlay, a curve and padding."""
    block = h.private_block(0x0011, "ACME PRIVATE-SECRET-321", create=True)
    block.add_new(0x01, "LO", "PRIVATE-SECRET-321")
    inner = Dataset()
    inner.PatientName = name
    block.add_new(0x02, "SQ", Sequence([inner]))
    h.add_new(0x60000010, "US", 64)
    h.add_new(0x60000011, "US", 64)
    h.add_new(0x60000022, "LO", "OVERLAYTEXT")
    h.add_new(0x60003000, "OW", b"OVERLAYTEXT\0" + bytes(500))
    h.add_new(0x50003000, "OW", b"OVERLAYTEXT\0")
    h.DataSetTrailingPadding = b"TRAILINGTEXT"


def dicom(seed: int, syntax: str = ExplicitVRLittleEndian, **how: str) -> bytes:
    h = header(seed, **how)
    if syntax == JPEGBaseline8Bit:
        stream = commented(jpeg(pixels(seed)))
        h.PixelData, h.PhotometricInterpretation = encapsulate([stream]), "YBR_FULL_422"
        h["PixelData"].is_undefined_length = True
    else:
        h.PixelData = pixels(seed).tobytes() + b"TRAILINGTEXT"
    h["PixelData"].VR = "OB"
    h.file_meta = FileMetaDataset()
    h.file_meta.TransferSyntaxUID = syntax
    h.file_meta.SourceApplicationEntityTitle = "AETITLE-99"
    h.file_meta.PrivateInformationCreatorUID = UIDS["referenced"]
    h.file_meta.PrivateInformation = b"PRIVATE-SECRET-321"
    h.preamble = b"PREAMBLE-SECRET".ljust(128, b"\0")
    out = io.BytesIO()
    h.save_as(out, enforce_file_format=True)
    return out.getvalue()


def jpeg(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def commented(stream: bytes) -> bytes:
    """Put a comment behind the start, one before the scan, and bytes behind the end."""
    words = b"JPEGCOMMENT-730101-1234"
    segment = b"\xff\xfe" + struct.pack(">H", len(words) + 2) + words
    scan = stream.index(b"\xff\xda")
    return stream[:2] + segment + stream[2:scan] + segment + stream[scan:] + b"AFTER-EOI-SECRET"


def exif(orientation: int = 1) -> bytes:
    found = Image.Exif()
    found[0x0112], found[0x013B], found[0x0132] = orientation, "EXIF-ARTIST-MUELLERIN", "2014:05:06 07:08:09"  # fmt: skip
    found.get_ifd(0x8769)[0x927C] = b"MAKERNOTE-9981"
    found.get_ifd(0x8825)[0x001B] = b"MAKERNOTE-9981"
    return found.tobytes()


XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><dc:creator>XMP-CREATOR-HUBERT</dc:creator></x:xmpmeta>"


@cache  # lcms writes the time into it
def icc() -> bytes:
    from PIL import ImageCms

    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = plain.index(b"mluc")
    words = "ICC-DESCRIPTION-IRMGARD".encode("utf-16-be")
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words
    count = struct.unpack(">I", plain[128:132])[0]
    table = bytearray(plain)
    for place in range(132, 132 + 12 * count, 12):
        if table[place : place + 4] == b"desc":
            table[place + 4 : place + 12] = struct.pack(">II", len(plain), len(text))
    assert at
    whole = bytes(table) + text
    return struct.pack(">I", len(whole)) + whole[4:]


def photograph(seed: int, orientation: int = 1) -> bytes:
    plain = jpeg(pixels(seed), exif=exif(orientation), icc_profile=icc())
    xmp = b"\xff\xe1" + struct.pack(">H", len(XMP) + 2) + XMP
    return commented(plain[:2] + xmp + plain[2:])


def png(seed: int) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "PNGTEXT-ANNELIESE")
    text.add_text("Comment", "ZTXT-BRUNHILDE " * 30, zip=True)
    text.add_itxt("Author", "ITXT-KUNIGUNDE", zip=True)
    out = io.BytesIO()
    Image.fromarray(pixels(seed)).save(out, "PNG", pnginfo=text, exif=exif(), icc_profile=icc())
    whole = out.getvalue()
    unknown = b"prVt" + b"PNGTEXT-ANNELIESE"
    chunk = struct.pack(">I", len(unknown) - 4) + unknown + struct.pack(">I", zlib.crc32(unknown))
    return whole[:33] + chunk + whole[33:] + b"AFTER-EOI-SECRET"


def tiff(seed: int, compression: str | None = None) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[315] = "TIFF-DESCRIPTION-OTTILIE", "TIFF-ARTIST-WALBURGA"
    tags[700] = XMP
    tags[65000] = "PRIVATE-SECRET-321"
    out = io.BytesIO()
    Image.fromarray(pixels(seed)).save(
        out, "TIFF", tiffinfo=tags, compression=compression, exif=exif()
    )
    return out.getvalue() + b"AFTER-EOI-SECRET"


def plant(folder: Path) -> Path:
    """Write the files below ``folder`` and a label table; return the table."""
    place = folder / "FOLDER-SIEGLINDE" / "Zwanzigmann"
    place.mkdir(parents=True)
    files = {
        "FILENAME-ADELHEID.dcm": dicom(1),
        "latin.dcm": dicom(2, ImplicitVRLittleEndian, charset="ISO_IR 100", name=UMLAUT_NAME),
        "utf8.dcm": dicom(3, charset="ISO_IR 192", name=UMLAUT_NAME),
        "kanji.dcm": dicom(4, charset="\\ISO 2022 IR 87", name=KANJI_NAME),
        "packed.dcm": dicom(5, JPEGBaseline8Bit),
        "FILENAME-ADELHEID.jpg": photograph(6),
        "turned.jpg": photograph(7, orientation=6),
        "text.png": png(8),
        "tags.tif": tiff(9),
        "tags_jpeg.tif": tiff(10, "jpeg"),
        "again.png": png(8),
        "Quirina cut.dcm": dicom(11)[:2500],
        "Zwanzigmann notes.txt": b"Zwanzigmann, Quirina: lives next to the mill",
        "broken Zwanzigmann.jpg": photograph(12)[:200],
        "blank.png": _blank(),
    }
    for name, data in files.items():
        (place / name).write_bytes(data)
    table = folder / "labels.csv"
    rows = ["image,patient,grade"]
    for number, name in enumerate(sorted(files)):
        if not name.endswith("txt"):
            rows.append(
                f"FOLDER-SIEGLINDE/Zwanzigmann/{name},TABLEPATIENT-4242 {number % 9},{number % 2}"
            )
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


def _blank() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 40), (50, 50, 50)).save(out, "PNG")
    return out.getvalue()


def spellings(word: str) -> set[bytes]:
    """Return how an identifier could look in bytes."""
    words = {word, word.lower(), word.upper(), word.casefold()}
    digits = word.replace(":", "").replace("-", "").replace(" ", "")
    words |= {digits} if len(digits) >= 8 else set()
    if len(word) == 8 and word.isdecimal():
        words.add(f"{word[:4]}-{word[4:6]}-{word[6:]}")
    found: set[bytes] = set()
    codecs = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "iso2022_jp", "cp932")
    for text, codec in itertools.product(words, codecs):
        try:
            raw = text.encode(codec)
        except UnicodeEncodeError:
            continue
        raw = raw.removeprefix(b"\x1b$B").removesuffix(b"\x1b(B")
        found |= {raw, raw.hex().encode(), raw.hex().upper().encode()}
        for shift in range(3):  # base64 of a longer text: whichever place of three it starts at
            packed = base64.b64encode(bytes(shift) + raw)
            form = packed[(shift * 8 + 5) // 6 :][: max(0, (len(raw) * 8 - 6) // 6)]
            # four letters of 64 stand in every third page of pictures by chance; the whole name is longer
            found |= {form} if len(form) >= 6 else set()
    return {form for form in found if len(form) >= 4}


FORMS = {word: spellings(word) for word in PLANTED}


def traces(data: bytes) -> set[str]:
    """Return the planted identifiers in ``data``, also inside what is compressed in it."""
    found: set[str] = set()
    for layer in layers(data):
        left = (word for word in PLANTED if word not in found)
        found |= {word for word in left if any(form in layer for form in FORMS[word])}
    return found


def layers(data: bytes) -> list[bytes]:
    """Return the bytes, and what inflates inside them: zlib streams, gzip, Parquet and zip."""
    found = [data]
    at = -1
    while (at := data.find(b"x", at + 1)) >= 0 and len(found) < 400:
        if data[at + 1 : at + 2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
            try:
                found.append(zlib.decompressobj().decompress(data[at:], 1 << 22))
            except zlib.error:
                continue
    if data[:4] == b"PAR1":
        import pyarrow.parquet as pq

        found.append(repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode())
        found.append(repr(pq.read_metadata(io.BytesIO(data)).metadata).encode())
    if data[:2] == b"\x1f\x8b":
        found.append(gzip.decompress(data))
    return found


def traces_below(folder: Path) -> dict[str, set[str]]:
    """Return file -> planted identifiers in its bytes or its path, for all files below ``folder``."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        hits = traces(place.encode("utf-8", "surrogateescape"))
        if path.is_file():
            hits |= traces(path.read_bytes())
        if hits:
            found[place] = hits
    return found
