"""How each of the shared DICOM files ends, by transfer syntax: writes docs/reference/outcomes.md."""

import csv
import resource
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data_schemas.contract import Accept, Contract
from data_schemas.errors import ImageError
from data_schemas.files import write_text
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read

ROOT = Path(__file__).parents[2]
FILES = ROOT / "../shared/data/dicom"
PAGE = ROOT / "docs/reference/outcomes.md"
CONTRACT = Contract(name="any", accept=Accept(frames="first"))
READERS = {
    "decodes_pydicom_pylibjpeg": "pydicom",
    "decodes_gdcm": "GDCM",
    "decodes_imagecodecs": "imagecodecs",
    "decodes_dcmtk": "dcmtk",
}
FUZZ = "pwnlabmx/dicom-fuzzing-corpus"

ZEROS = "all values are 0 in any reading"
WHY = {
    # file: why a picture that some reader of index.csv gives is not given here
    "02becd3df5b8": f"photometric interpretation empty: black or white is lowest? ({ZEROS})",
    "050b8c20f59b": f"no photometric interpretation: black or white is lowest? ({ZEROS})",
    "1d0a493f1705": f"photometric interpretation is a word that doesn't exist ({ZEROS})",
    "38dde2ba4f7f": f"photometric interpretation is 256 times X ({ZEROS})",
    "d24f75e83dd4": f"photometric interpretation is a word that doesn't exist ({ZEROS})",
    "0ffa2d05ba94": f"0 bits stored ({ZEROS})",
    "a874a082bdf9": f"0 bits stored ({ZEROS})",
    "3966426ff13e": f"16 bits stored in 8 ({ZEROS})",
    "808d0761821b": f"17 bits stored in 16 ({ZEROS})",
    "9e2f08154775": f"17 bits stored in 16 ({ZEROS})",
    "fb121aaf89a6": f"17 bits stored in 16 ({ZEROS})",
    "1b9a84a720ac": f"RGB of one sample ({ZEROS})",
    "a98bdbb4377d": f"RGB of one sample ({ZEROS})",
    "ef99fb6c21ac": f"MONOCHROME2 of three samples ({ZEROS})",
    "219becff281d": "24 bits in 8,192 bytes: readers fill up what is missing",
    "8f749ec268d4": "9 bits, no packing is defined for it",
    "993c9df04e78": "9 bits, no packing is defined for it",
    "aa078df7e2cc": "3 bits, no packing is defined for it",
    "2fbc846779e6": "64 of 32,768 bytes: the reader fills up what is missing",
    "37d62bb317d1": "64 of 8,192 bytes: readers fill up what is missing",
    "493a9e82ea19": "64 of 8,192 bytes: readers fill up what is missing",
    "5c8ab061f10a": "16 of 16,777,216 bytes: readers fill up what is missing",
    "6df2eedbb438": "64 of 2,097,152 bytes: the reader fills up what is missing",
    "d642341a61d0": "64 of 8,192 bytes: the reader fills up what is missing",
    "fb148a27789b": "32 of 262,144 bytes: readers fill up what is missing",
    "68090dbf4f7c": "4 of 65,536 bytes in a picture of 32,768 x 1, and the side is past the limit",
    "5af0fee92040": "65,535 frames claimed, 0.5 GB, in 64 bytes",
    "0abc589dc835": "999,999 frames claimed, 8 GB, in 8,192 bytes (a bomb; the one frame is all 0)",
    "d10ba4e25bf7": "2,000,000,000 frames claimed, 49 TB, in 24,576 bytes: a claim of gigabytes is a bomb",
    "18b35e0db90d": "a valid bomb: 256 million pixels of 0 in a few kilobytes",
    "a10b5f0a9752": "a bomb: 400 MB deflated into 390 kB",
    "cd8c977ce5a7": "the reader's picture is wrong: 64 x 64 in the header, 16,000 x 16,000 in the stream",
}
DIFFERS = (
    ("37757f88cc30, 0c7290e3f67b, ad3c5a7a1b61, 833d7c17c1b5", "readers that believe the header", "the JPEG's own markers say what its components are; the header says otherwise"),
    ("0c9a6d9fea4e", "libjpeg's own guess", "no JFIF, no Adobe, RGB in the header: it is RGB, mean error 48 of 255 else"),
    ("61f38f250a7d, 2df92c523d36", "GDCM", "its sign is wrong: 15 bit JPEG-LS and 13 bit JPEG 2000 are extended from the wrong bit"),
    ("fe40ee7ed0cd", "GDCM", "its 32 bit big-endian values are not swapped"),
    ("colour stored by plane", "GDCM", "its buffer stays planar"),
    ("e18ef9fab4a4", "imagecodecs alone", "the stream is signed, the header is not: the header's sign counts"),
    ("ea3b62d7dc2a", "pydicom's LUT", "8-bit entries in words: pydicom shows 0..64 of 255"),
    ("9ed7dc138866", "pydicom's window", "after a negative slope pydicom turns the order back"),
    ("8-bit baseline and extended JPEG", "pylibjpeg", "libjpeg-turbo differs by 1 in 0.4 to 4 % of values; this is the pinned decoder, in training and in serving"),
    ("lossy HTJ2K", "imagecodecs htj2k_decode", "it wraps around at saturation; jpeg2k_decode reads the same stream rightly"),
)  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """One file's row in the index, and what became of it: image, BLANK (decoded, one value) or a code."""

    row: dict[str, str]
    outcome: str
    reason: str = ""

    @property
    def name(self) -> str:
        return self.row["file"].removesuffix(".dcm")

    @property
    def decoded(self) -> bool:
        return self.outcome in ("image", "BLANK")

    @property
    def readers(self) -> list[str]:
        return [name for column, name in READERS.items() if self.row[column].startswith("yes")]


def endings(folder: Path = FILES) -> list[Ending]:
    """Take every file of the folder down the road."""
    with (folder / "index.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [_ending(row, (folder / row["file"]).read_bytes()) for row in rows]


def _ending(row: dict[str, str], data: bytes) -> Ending:
    try:
        prepare(read(data, CONTRACT), CONTRACT)
    except ImageError as error:
        return Ending(row, error.code, error.what)
    return Ending(row, "image")


def page(found: list[Ending]) -> str:
    """Return the document, the same for the same files and code."""
    return "\n\n".join([_head(found), _by_syntax(found), _refused(found), _alone(found), _differs()]) + "\n"  # fmt: skip


def _head(found: list[Ending]) -> str:
    images = sum(ending.outcome == "image" for ending in found)
    blank = sum(ending.outcome == "BLANK" for ending in found)
    fuzz = sum(ending.row["source_repo"] == FUZZ for ending in found)
    return (
        "<!-- Written by `python benchmarks/outcomes/run.py` from ../shared/data/dicom. -->\n\n"
        "# How real DICOM files end\n\n"
        f"{len(found)} files of `../shared/data/dicom`, {fuzz} of them from a fuzz corpus, under the contract "
        f"`any` (every modality, first frame). **{images} images**, {blank} that decode and hold one value all "
        f"over (refused as BLANK; most of them are fuzz), {len(found) - images - blank} refusals. "
        "A code's meaning stands in [tables.md](tables.md)."
    )


def _by_syntax(found: list[Ending]) -> str:
    codes = sorted({ending.outcome for ending in found} - {"image"})
    groups: dict[str, list[Ending]] = {}
    for ending in found:
        groups.setdefault(ending.row["transfer_syntax_uid"], []).append(ending)
    lines = [
        "## By transfer syntax",
        "",
        f"| transfer syntax | files | images | {' | '.join(codes)} |",
        f"| --- | --: | --: |{' --: |' * len(codes)}",
    ]
    lines += [_line(_named(uid, groups[uid]), groups[uid], codes) for uid in sorted(groups)]
    lines.append(_line("**all**", found, codes))
    return "\n".join(lines)


def _line(name: str, group: list[Ending], codes: list[str]) -> str:
    counts = Counter(ending.outcome for ending in group)
    cells = [str(counts[code] or "") for code in codes]
    return f"| {name} | {len(group)} | {counts['image']} | {' | '.join(cells)} |"


def _named(uid: str, group: list[Ending]) -> str:
    if not uid:
        return "none in the file meta, or no file meta"
    return f"{group[0].row['transfer_syntax_name'] or 'not known'} `{uid.removeprefix('1.2.840.10008.')}`"


_READERS_NOTE = (
    "The readers are those of `index.csv`. None of these files holds a picture that is whole and isn't "
    "one value all over, but for `d10ba4e25bf7`, whose first frame is there."
)


def _refused(found: list[Ending]) -> str:
    missed = [ending for ending in found if ending.readers and not ending.decoded]
    lines = [
        "## Refused here, read by another reader",
        "",
        _READERS_NOTE,
        "",
        "| file | code | read by | why it is refused |",
        "| --- | --- | --- | --- |",
    ]
    for ending in missed:
        why = WHY.get(ending.name, "NOT EXPLAINED")
        lines.append(
            f"| `{ending.name}` | {ending.outcome} | {', '.join(ending.readers)} | {why} |"
        )
    return "\n".join(lines)


def _alone(found: list[Ending]) -> str:
    ours = [ending for ending in found if ending.decoded and not ending.readers]
    words = ", ".join(f"`{ending.name}`" for ending in ours)
    return (
        "## Read here and by none of the others\n\n"
        f"{len(ours)} files: {words}. They are 1-bit RLE, encapsulated data under an uncompressed syntax, "
        "frames that are whole before a cut, and a file meta group with a VR that doesn't exist."
    )


def _differs() -> str:
    lines = ["## Where another reader's picture differs", "", "| files | reader | reason |", "| --- | --- | --- |"]  # fmt: skip
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in DIFFERS)])


def main() -> None:
    """Write the page, and print what it took."""
    started = time.process_time()
    found = endings()
    seconds = time.process_time() - started
    write_text(PAGE, page(found))
    counts = Counter(ending.outcome for ending in found)
    print(", ".join(f"{code} {count}" for code, count in counts.most_common()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(found)} files, {seconds:.1f} s of CPU time, peak memory {peak:.0f} MiB")
    unexplained = [e.name for e in found if e.readers and not e.decoded and e.name not in WHY]
    print(f"not explained: {', '.join(unexplained) or 'none'}")


if __name__ == "__main__":
    main()
