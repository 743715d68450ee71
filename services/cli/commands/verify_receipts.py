"""Verify a receipt log: find any line that was edited, taken out, put in, moved or cut off.

    hilum verify-receipts receipts/
    hilum verify-receipts receipts/ --key receipt.key --anchors service.jsonl

LOG is the folder of the log or one of its files. Each flaw is told with its file and line; the
exit code is 1 if there is one. Without a key this shows that the log agrees with itself; that
nobody has made the whole log anew is shown by its seals (--key) or by anchors kept elsewhere
(--anchors: the service's own log, or lines NUMBER:DIGEST). See docs/receipts.md.
"""

import argparse
from pathlib import Path

from data_schemas.errors import UsageError
from services.cli.console import Console

SHOWN = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("log", type=Path, metavar="LOG", help="folder of the log, or one file")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the keys that seal the receipts")
    parser.add_argument(
        "--anchors", type=Path, metavar="FILE", help="the service's log, or lines NUMBER:DIGEST"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Verify and print; 0 if nothing is wrong."""
    from services.inference.receipt_check import verify_log
    from services.inference.receipt_files import anchors_in
    from services.inference.receipts import read_keys

    keys = () if options.key is None else read_keys(options.key)
    anchors = {} if options.anchors is None else anchors_in(_text(options.anchors))
    found = verify_log(options.log, keys=keys, anchors=anchors)
    lines = [str(flaw) for flaw in found.flaws[:SHOWN]]
    if len(found.flaws) > SHOWN:
        lines.append(f"... and {len(found.flaws) - SHOWN} more (--json lists them)")
    lines += [f"note: {note}" for note in found.notes]
    lines.append(
        f"{found.receipts:,} receipts in {found.files} files, {found.sealed:,} lines sealed, "
        + (f"{len(found.flaws)} flaws" if found.flaws else "nothing wrong")
    )
    lines.append(f"ends with {found.last}:{found.digest}")
    flaws = [
        {"file": flaw.file, "line": flaw.line, "kind": flaw.kind, "what": flaw.what}
        for flaw in found.flaws
    ]
    tree = {
        "flaws": flaws,
        "notes": found.notes,
        "files": found.files,
        "receipts": found.receipts,
        "sealed": found.sealed,
        "last": found.last,
        "digest": found.digest,
    }
    console.result("\n".join(lines), tree)
    return 1 if found.flaws else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the anchors can't be read", where=path) from error
