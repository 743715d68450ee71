"""Turn images and a label table into a data set.

SOURCE is a folder of images in any mix and depth (archives in it count as their members), a .zip or .tar
archive, a DICOMDIR, a list file (.txt or .csv, one path a line), a MedMNIST .npz (which holds its own
labels), object storage (s3://bucket/prefix) or DICOMweb
(dicomweb+https://host/path?Modality=OP&StudyDate=20200101-20201231).

LABELS is a CSV, Parquet or JSON. A row is about a file (`image`: its path, or its name where that is
unique; or `source_sha256`, or `sop_instance_uid`), a patient's eye (`patient` and `laterality`) or a
patient. `site` and `split` are optional; every other column of small whole numbers or of a few words is
a label. Every file ends as an image or as a refusal with a code and a reason.

Patients get pseudonyms made with a secret key: HILUM_PSEUDONYM_KEY, --key-file, or a key that is
created once in ~/.hilum/pseudonym.key. With the same key the same data give the same data set.

Killed at any moment, the same command goes on where it stopped and ends in the same data set. With a data
set in --out it makes its next version: only new and changed files are read, and dataset.json says what
changed. Every image is decoded in a process of its own kind: what kills or stops a decoder is one refusal.

    hilum ingest photos --labels photos/labels.csv --label dr_grade --contract fundus --out dataset
    hilum ingest retinamnist.npz --out retina
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli import access
from services.cli.console import Console
from services.cli.key import pseudonym_key

if TYPE_CHECKING:
    from data_schemas.dataset import DatasetInfo
    from pipeline.ingest.splits import SplitRule


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, a file or an address, see above"
    )
    parser.add_argument("--labels", type=Path, help="CSV, Parquet or JSON; without it: no labels")
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
    parser.add_argument(
        "--ordinal",
        action="append",
        default=[],
        metavar="NAME[=LOW,...,HIGH]",
        help="this label's classes have an order: its numbers', or these words'; repeatable",
    )
    parser.add_argument(
        "--strict-labels", action="store_true", help="stop at a row of LABELS without its file"
    )
    parser.add_argument("--name", default="", help="the data set's name (default: SOURCE's)")
    parser.add_argument("--key-file", type=Path, help="file with the key of the pseudonyms")
    parser.add_argument(
        "--force", action="store_true", help="build anew, even if --out holds a data set"
    )
    access.configure_engine(parser, "decode")
    access.configure(parser)

    _configure_splits(parser.add_argument_group("splits and leaks"))


def _configure_splits(splits: "argparse._ArgumentGroup") -> None:
    splits.add_argument(
        "--split",
        choices=("hash", "stratified"),
        default="hash",
        help="hash: a new patient moves no other (default); stratified: every split has its share of "
        "every class, for small sets. A `split` column in LABELS wins",
    )
    splits.add_argument(
        "--shares",
        metavar="SPLIT=SHARE,...",
        help="share of the patients (default: train=.55,tune=.10,calibration=.15,test=.20)",
    )
    splits.add_argument(
        "--folds",
        type=access.whole,
        default=0,
        metavar="K",
        help="cross-validation folds by patient over everything but test and external",
    )
    splits.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="SITE",
        help="hold a site out: its patients make the split external; repeatable",
    )
    splits.add_argument(
        "--drop-near-duplicates",
        action="store_true",
        help="refuse images that are almost the same as one of a more sealed split",
    )
    splits.add_argument(
        "--strict", action="store_true", help="exit with 1 if the leak doctor finds what blocks"
    )


def _own_size(options: argparse.Namespace) -> list[str]:
    """Return the setting that keeps a MedMNIST file's images as large as they are."""
    from pipeline.ingest.sources.medmnist import side_of

    source = Path(options.source)
    said = options.contract or any(word.startswith("size=") for word in options.set)
    if said or source.suffix != ".npz":
        return []
    side = side_of(source)
    return [f"size={side}"] if side else []


def run(options: argparse.Namespace, console: Console) -> int:
    """Ingest and print the funnel."""
    from data_schemas.contract import Contract
    from pipeline.imaging.workers import WorkerLimits
    from pipeline.ingest.ingest import Options, ingest
    from services.cli.settings import resolve

    if options.engine == "ray":  # nothing is sent anywhere, and its chatter stays in its own logs
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    preset = options.contract or ("medmnist" if Path(options.source).suffix == ".npz" else "any")
    contract = resolve(Contract, "contracts", [preset], [*_own_size(options), *options.set])
    info = ingest(
        options.source,
        options.labels,
        options.out,
        contract,
        key=pseudonym_key(options.key_file, console),
        progress=console.progress,
        options=Options(
            name=options.name,
            labels=tuple(options.label),
            ordinal=_orders(options.ordinal),
            strict_labels=options.strict_labels,
            access=access.access_of(options),
            force=options.force,
            engine=options.engine,
            workers=options.workers,
            limits=WorkerLimits(options.timeout, options.memory * 2**20),
            ray_address=options.ray_address,
            splits=_split_rule(options),
            drop_near_duplicates=options.drop_near_duplicates,
            say=console.say,
        ),
    )
    tree = info.model_dump(mode="json")
    console.result(f"{funnel(info, options.out)}\n{_leaks(tree, options.out)}", tree)
    return 1 if options.strict and info.leaks is not None and info.leaks.blocking else 0


def _split_rule(options: argparse.Namespace) -> "SplitRule":
    from pipeline.ingest.splits import SHARES, SplitRule, parse_shares

    return SplitRule(
        how=options.split,
        shares=SHARES if options.shares is None else parse_shares(options.shares),
        folds=options.folds,
        external={site: frozenset({site}) for site in options.external},
    )


def _leaks(info: dict, out: Path) -> str:  # type: ignore[type-arg]
    found = info["leaks"]
    if found is None:
        return f"leaks: not examined yet: hilum leaks {out}"
    if not any(found.values()):
        return "leaks: none found"
    return (
        f"leaks: {found['blocking']} findings block training, {found['warnings']} are for a person "
        f"to look at: hilum leaks {out}"
    )


def _orders(words: list[str]) -> dict[str, tuple[str, ...]]:
    parts = [word.partition("=") for word in words]
    return {
        name: tuple(step.strip() for step in steps.split(",") if step.strip())
        for name, _, steps in parts
    }


def funnel(info: "DatasetInfo", out: Path) -> str:
    """Return the counts of a data set as text: the funnel, refusals by code, splits, labels."""
    from pipeline.ingest.page.stages import funnel_text

    lines = [funnel_text(info)]
    for label in info.labels:
        counts = ", ".join(
            f"{name}: {count}" for name, count in zip(label.classes, label.counts, strict=True)
        )
        lines.append(f"{'':>11}{label.name} ({label.kind}): {counts}")
    lines.append(f"{out}: data set `{info.name}`, content {info.content_sha256[:16]}")
    return "\n".join(lines)
