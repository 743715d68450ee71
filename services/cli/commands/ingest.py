"""Turn a folder of images and a label table into a data set.

SOURCE is a folder of DICOM, JPEG, PNG and TIFF files in any mix, or a MedMNIST .npz file (which holds
its own labels). LABELS is a CSV or Parquet with a column `image` (path below SOURCE) or
`source_sha256`, optionally `patient`, `laterality` and `split`; every other column of small whole
numbers is a label. Every file ends as an image or as a refusal with a code and a reason.

Patients get pseudonyms made with a secret key: HILUM_PSEUDONYM_KEY, --key-file, or a key that is
created once in ~/.hilum/pseudonym.key. With the same key the same data give the same data set.

    hilum ingest photos --labels photos/labels.csv --label dr_grade --contract fundus --out dataset
    hilum ingest retinamnist.npz --out retina
"""

import argparse
from pathlib import Path

from services.cli.console import Console
from services.cli.key import pseudonym_key


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder, or a .npz file")
    parser.add_argument("--labels", type=Path, help="CSV or Parquet; without it: no labels")
    parser.add_argument("--out", type=Path, required=True, help="the data set folder to write")
    parser.add_argument(
        "--contract",
        metavar="NAME|FILE",
        help="fundus, any, medmnist or a YAML file (default: medmnist for a .npz, else any)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the contract, as in --set size=224",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="use only this label; repeatable",
    )
    parser.add_argument("--name", default="", help="the data set's name (default: SOURCE's)")
    parser.add_argument("--key-file", type=Path, help="file with the key of the pseudonyms")
    parser.add_argument("--force", action="store_true", help="replace an older data set in --out")


def run(options: argparse.Namespace, console: Console) -> int:
    """Ingest and print the funnel."""
    from data_schemas.contract import Contract
    from pipeline.ingest.ingest import Options, ingest
    from services.cli.settings import resolve

    preset = options.contract or ("medmnist" if options.source.suffix == ".npz" else "any")
    contract = resolve(Contract, "contracts", [preset], options.set)
    info = ingest(
        options.source,
        options.labels,
        options.out,
        contract,
        key=pseudonym_key(options.key_file, console),
        progress=console.progress,
        options=Options(options.name, tuple(options.label), options.force, console.say),
    )
    console.result(funnel(info.model_dump(mode="json"), options.out), info.model_dump(mode="json"))
    return 0


def funnel(info: dict, out: Path) -> str:  # type: ignore[type-arg]
    """Return the counts of a data set as text: files, refusals by code, images, splits, labels."""
    from data_schemas.dataset import REFUSALS

    lines = [f"{info['files_read']:>8}  files read"]
    lines += [f"{-count:>8}  {code}: {REFUSALS[code]}" for code, count in info["refused"].items()]
    splits = ", ".join(f"{split} {count}" for split, count in info["splits"].items())
    lines.append(f"{info['images']:>8}  images of {info['patients']} patients ({splits})")
    for label in info["labels"]:
        counts = ", ".join(
            f"{name}: {count}"
            for name, count in zip(label["classes"], label["counts"], strict=True)
        )
        lines.append(f"{'':>10}{label['name']} ({label['kind']}): {counts}")
    lines.append(f"{out}: data set `{info['name']}`, content {info['content_sha256'][:16]}")
    return "\n".join(lines)

