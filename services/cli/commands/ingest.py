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
import os
import secrets
from pathlib import Path

from services.cli.console import Console

_SHORTEST_KEY = 16


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
    parser.add_argument(
        "--force", action="store_true", help="build anew, even if --out holds a data set"
    )
    engine = parser.add_argument_group("how the work is done (the result is the same)")
    engine.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="processes here, or Ray"
    )
    engine.add_argument(
        "--workers",
        type=_whole,
        default=0,
        metavar="N",
        help="processes that decode (default: one for each core)",
    )
    engine.add_argument(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="seconds for one image; then its file is refused (default: 120)",
    )
    engine.add_argument(
        "--memory",
        type=_whole,
        default=2048,
        metavar="MIB",
        help="memory for one image; 0: no limit (default: 2048)",
    )
    engine.add_argument(
        "--ray-address", default="", help="a running Ray cluster (default: this machine)"
    )


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return number


def run(options: argparse.Namespace, console: Console) -> int:
    """Ingest and print the funnel."""
    from data_schemas.contract import Contract
    from pipeline.imaging.workers import WorkerLimits
    from pipeline.ingest.ingest import Options, ingest
    from services.cli.settings import resolve

    if options.engine == "ray":  # nothing is sent anywhere, and its chatter stays in its own logs
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    preset = options.contract or ("medmnist" if options.source.suffix == ".npz" else "any")
    contract = resolve(Contract, "contracts", [preset], options.set)
    info = ingest(
        options.source,
        options.labels,
        options.out,
        contract,
        key=_key(options.key_file, console),
        progress=console.progress,
        options=Options(
            name=options.name,
            labels=tuple(options.label),
            force=options.force,
            engine=options.engine,
            workers=options.workers,
            limits=WorkerLimits(options.timeout, options.memory * 2**20),
            ray_address=options.ray_address,
            say=console.say,
        ),
    )
    console.result(funnel(info.model_dump(mode="json"), options.out), info.model_dump(mode="json"))
    return 0


def funnel(info: dict, out: Path) -> str:  # type: ignore[type-arg]
    """Return the counts of a data set as text: files, refusals by code, images, splits, labels."""
    from data_schemas.dataset import REFUSALS

    lines = [" -> ".join(_steps(info))]
    lines += [f"{info['files_read']:>8}  files read"]
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


_STEPS = (
    ("graded sufficient", ("UNGRADABLE", "BURNED_IN_TEXT")),
    ("labelled", ("NO_LABEL",)),
    ("kept", ("DUPLICATE", "CONFLICTING_LABEL", "NEAR_DUPLICATE")),
)
"""What happens to a readable image, in order, and the codes of those that are lost on each step."""


def _steps(info: dict) -> list[str]:  # type: ignore[type-arg]
    # counted from the end: a file of many frames may give many images
    left = info["images"]
    steps: list[str] = []
    for name, codes in reversed(_STEPS):
        lost = sum(info["refused"].get(code, 0) for code in codes)
        if lost:
            steps.append(f"{left:,} {name}")
        left += lost
    return [f"{info['files_read']:,} files", f"{left:,} readable", *reversed(steps)]


def _key(file: Path | None, console: Console) -> bytes:
    """Return the key of the pseudonyms; create one if nobody gave any."""
    from data_schemas.errors import UsageError

    text = os.environ.get("HILUM_PSEUDONYM_KEY", "")
    where = "HILUM_PSEUDONYM_KEY"
    if file is not None or not text:
        path = file or Path.home() / ".hilum" / "pseudonym.key"
        where = str(path)
        if file is None and not path.exists():
            _create_key(path)
            console.say(
                f"created the key of the patients' pseudonyms: {path} (keep it, and secret)"
            )
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("the key file can't be read", where=where) from error
    if len(text) < _SHORTEST_KEY:
        raise UsageError(f"the key has fewer than {_SHORTEST_KEY} characters", where=where)
    return text.encode()


def _create_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
