"""Score a file again and compare with the receipt of its score: the same, or which digest differs.

    hilum replay 0b0c7f3e-... --input photo.dcm --log receipts/ --model models:/fundus@3
    hilum replay 0b0c7f3e-... --input photo.dcm --log receipts/ --model package/

ID is the score_id of a score. Compared are the bytes of the input, the package, the contract, the
runtime with its precision, the array that the network saw, and what decided (logits,
probabilities, findings, operating point, threshold, verdict), bit for bit. The exit code is 0 if
all are the same. Only on the same runtime must the output be the same to the last bit.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ImageError, UsageError
from services.cli.console import Console
from services.cli.models import opened_package

if TYPE_CHECKING:
    from data_schemas.receipt import Receipt

COMPARED = (
    ("input", "input_sha256"),
    ("package", "package_sha256"),
    ("contract", "contract_sha256"),
    ("runtime", "runtime"),
    ("array", "prepared_sha256"),
    ("operating point", "operating_point"),
    ("output", "output_sha256"),
)
"""What is compared, in the order in which one follows from the other."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("score_id", metavar="ID", help="score_id of the score")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="what was scored")
    parser.add_argument("--log", type=Path, required=True, help="folder of the receipts, or a file")
    parser.add_argument(
        "--model",
        "--package",
        required=True,
        help="package folder, models:/NAME@ALIAS or models:/NAME/VERSION",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Score again and compare; 0 if nothing differs."""
    from services.inference.receipt_check import find_receipt

    kept, file, line = find_receipt(options.log, options.score_id)
    try:
        data = options.input.read_bytes()
    except OSError as error:
        raise UsageError("can't be read", where=options.input) from error
    again = _again(options.model, data, kept)
    rows = []
    for name, field in COMPARED:
        then, now = getattr(kept, field), getattr(again, field)
        rows.append({"what": name, "same": then == now, "then": then, "now": now})
    same = all(row["same"] for row in rows)
    console.result(
        _told(rows, f"{file}:{line}", kept.time, same=same),
        {"same": same, "receipt": f"{file}:{line}", "compared": rows},
    )
    return 0 if same else 1


def _told(rows: list[dict[str, object]], place: str, when: str, *, same: bool) -> str:
    lines = [f"receipt of {when}, {place}"]
    for row in rows:
        lines.append(f"  {row['what']:<16}{'same' if row['same'] else 'DIFFERS'}")
        if not row["same"]:
            lines += [f"      then  {row['then']}", f"      now   {row['now'] or '(none)'}"]
    if same:
        lines.append("the same, bit for bit")
    else:
        first = next(row["what"] for row in rows if not row["same"])
        lines.append(f"not the same: the {first} differs")
    return "\n".join(lines)


def _again(model: str, data: bytes, kept: "Receipt") -> "Receipt":
    import numpy as np

    from data_schemas.files import sha256
    from data_schemas.receipt import receipt_of
    from pipeline.imaging.prepare import came_prepared
    from pipeline.model.kinds import BASE, batch_of, kind_of, missing
    from pipeline.model.runtime import Runtime
    from pipeline.model.scoring import score_bytes, score_prepared

    with opened_package(model) as (package, version):
        # by the runtime and precision of the receipt; where this machine lacks them, the receipt
        # will say that it was another
        kind = kind_of(kept.runtime)
        batch = batch_of(kept.runtime)
        runtime = Runtime(package, kind=BASE if missing(kind) else kind, batch=batch)
        try:
            if sha256(data) == kept.input_sha256 == kept.prepared_sha256:
                # the client had prepared it: the bytes are the array itself
                shape = (package.card.size, package.card.size, package.card.channels)
                pixels = np.frombuffer(data, np.uint8).reshape(shape)
                score = score_prepared(package, runtime, *came_prepared(pixels), version=version)
            else:
                score = score_bytes(package, runtime, data, version=version)
        except ImageError:
            # another file or another contract: what is known is told, the rest was never made
            return kept.model_copy(
                update={
                    "input_sha256": sha256(data),
                    "package_sha256": package.sha256,
                    "contract_sha256": package.card.contract_sha256,
                    "runtime": runtime.identity,
                    "prepared_sha256": "",
                    "output_sha256": "",
                }
            )
    return receipt_of(score, kept.time)
