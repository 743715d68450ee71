"""Write clean copies of DICOM images and photographs for research.

IN is a folder of any depth, an archive, or another source that `hilum ingest` takes. DICOM is cleaned by the Basic Application Level Confidentiality
Profile of PS3.15 Annex E, in sequences too: names, dates and free text go, private attributes,
overlays and curves as well, UIDs and patient identifiers are mapped by a keyed hash, file meta and
preamble are written anew. Reports, documents and presentation states are refused. JPEG, PNG, TIFF,
JPEG 2000 and WebP keep their pixels and lose comments, Exif, XMP, texts, thumbnails and tails.
Pixels are the same, bit for bit.

Files whose pixels may hold a name are set aside, not written: OUT/set-aside.csv lists them. A person
has to look; a detector can miss text. OUT/deidentified.parquet says what became of every file, by its
SHA-256. Started again after a stop, the command goes on where it was.

The key is that of `hilum ingest`: HILUM_PSEUDONYM_KEY, --key-file, or ~/.hilum/pseudonym.key.

    hilum deidentify archive clean
    hilum deidentify archive clean --dates shift --retain patient --retain device
"""

import argparse
import importlib.util
from pathlib import Path

from services.cli.access import whole
from services.cli.console import Console
from services.cli.key import pseudonym_key


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", metavar="IN", help="a folder, an archive or a list file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--dates",
        choices=("remove", "shift", "keep"),
        default="remove",
        help="shift: by a constant of 1 to 3650 days for each patient (default: remove)",
    )
    parser.add_argument(
        "--retain",
        action="append",
        default=[],
        choices=("device", "institution", "patient", "uids"),
        help="keep what identifies the device, the institution, the patient's age, sex, size and "
        "weight, or the UIDs; repeatable",
    )
    parser.add_argument(
        "--suspects",
        metavar="LIST",
        help="modalities that are set aside unless their header says NO to burned-in text "
        "(default: US,SC,OT,XC,ES,GM,DOC,IVUS; an empty LIST leaves it to the detector)",
    )
    parser.add_argument(
        "--keep-burned-in",
        action="store_true",
        help="write files with suspected text, too; the log marks them",
    )
    parser.add_argument(
        "--workers",
        type=whole,
        default=0,
        metavar="N",
        help="processes (default: one for each core)",
    )
    parser.add_argument("--key-file", type=Path, help="file with the key of the pseudonyms")


def run(options: argparse.Namespace, console: Console) -> int:
    """Clean and print what became of the files."""
    from data_schemas.errors import UsageError

    if importlib.util.find_spec("scipy") is None:
        raise UsageError(
            "looking for burned-in text needs a package that is not installed",
            mend="pip install 'hilum[deidentify]'",
        )
    from pipeline.ingest.deidentify.burned_in import SUSPECTS
    from pipeline.ingest.deidentify.copying import Settings
    from pipeline.ingest.deidentify.deidentify import counts, deidentify
    from pipeline.ingest.deidentify.profile import Choice

    suspects = SUSPECTS
    if options.suspects is not None:
        suspects = tuple(word.strip().upper() for word in options.suspects.split(",") if word)
    settings = Settings(
        Choice(options.dates, frozenset(options.retain)), options.keep_burned_in, suspects
    )
    key = pseudonym_key(options.key_file, console)
    outcomes = deidentify(
        options.source,
        options.out,
        settings,
        key=key,
        workers=options.workers,
        progress=console.progress,
    )
    tree = counts(outcomes)
    lines = [f"{len(outcomes):>8}  files read"]
    lines += [f"{count:>8}  {status}" for status, count in tree["files"].items()]
    lines += [f"{'':>10}{code}: {count}" for code, count in tree["codes"].items()]
    lines.append(f"{options.out}: deidentified.parquet names every file by its SHA-256")
    console.result("\n".join(lines), {"read": len(outcomes), **tree})
    return 0
