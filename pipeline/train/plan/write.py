"""plan.yaml: a summary for a person, a reason on every line, and a digest that tells an edited file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_schemas.errors import UsageError
from data_schemas.files import sha256, write_text
from data_schemas.fingerprint import Fingerprint
from data_schemas.plan import Plan
from pipeline.train.plan.cost import Estimate, duration, gigabytes
from pipeline.train.plan.rules import Decision

PLAN_FILE = "plan.yaml"
FINGERPRINT_FILE = "fingerprint.json"
_DIGEST = re.compile(r"^# as written: ([0-9a-f]{64})$", re.MULTILINE)
_DATASET = re.compile(r"^# data set: .* \(content ([0-9a-f]{16})\)$", re.MULTILINE)
_REASONS_AT = 40
_SECTIONS = {
    "network": "backbone and evidence head",
    "learning": "optimiser, schedule and length",
    "beside": "a second kind of network in the same answer",
    "augmentation": "random changes of training images",
    "operating": "how thresholds are chosen on the calibration split",
}


@dataclass(frozen=True)
class PlanFile:
    """What a plan file says of itself."""

    edited: bool  # not, byte for byte, as it was written
    dataset: str  # the first digits of the data set's digest; empty: not said


def render(
    decisions: tuple[Decision, ...], fingerprint: Fingerprint, estimate: Estimate | None
) -> str:
    """Return the text of plan.yaml."""
    lines = [
        _line("schema_version", Plan.VERSION, "fixed: the form of this file"),
    ]
    section = ""
    for decision in decisions:
        above, _, name = decision.key.rpartition(".")
        if above and above != section:
            lines.append(f"{above}:".ljust(_REASONS_AT) + f"  # {_SECTIONS[above]}")
        section = above
        key = f"  {name}" if above else name
        lines.append(_line(key, decision.value, f"{decision.kind}: {decision.why}"))
    body = "\n".join(lines) + "\n"
    head = _head(fingerprint, estimate)
    return f"{head}# as written: {sha256((head + body).encode())}\n\n{body}"


def write_plan(path: Path, text: str, fingerprint: Fingerprint, *, force: bool = False) -> None:
    """Write the plan and, beside it, the fingerprint that it follows from, atomically.

    Raises
    ------
    UsageError
        If a person has edited the plan that is there and ``force`` isn't given, or the folder
        can't be written to.
    """
    if not force:
        refuse_edited(path)
    try:
        fingerprint.write_json(fingerprint_file(path))
        write_text(path, text)
    except OSError as error:
        raise UsageError(
            f"can't be written: {error.strerror or error}", where=path, mend="give --out FILE"
        ) from error


def refuse_edited(path: Path) -> None:
    """Raise :class:`UsageError` if there is a plan that a person has edited, or made."""
    if path.exists() and inspect(path).edited:
        raise UsageError(
            "somebody has edited this plan, it is left as it is",
            where=path,
            mend="keep it, write another one with --out FILE, or write over it with --force",
        )


def fingerprint_file(path: Path) -> Path:
    """Return where the fingerprint of a plan file lies: beside it."""
    if path.name == PLAN_FILE:
        return path.with_name(FINGERPRINT_FILE)
    return path.with_name(f"{path.stem}.{FINGERPRINT_FILE}")


def inspect(path: Path) -> PlanFile:
    """Return what a plan file says of itself; one without a digest was made by a person."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return PlanFile(edited=True, dataset="")
    found = _DIGEST.search(text)
    told = _DATASET.search(text)
    dataset = told.group(1) if told else ""
    if found is None:
        return PlanFile(True, dataset)
    rest = text[: found.start()] + text[found.end() :].removeprefix("\n\n")
    return PlanFile(sha256(rest.encode()) != found.group(1), dataset)


def _head(fingerprint: Fingerprint, estimate: Estimate | None) -> str:
    train = fingerprint.images.get("train", 0)
    name = _plain(fingerprint.dataset)
    patients = fingerprint.patients.get("train", 0)
    counts = f"{train:,} training images of {patients:,} patients, {fingerprint.size} px"
    lines = [f"# How to train on `{name}`: {counts}."]
    if estimate is not None:
        lines.append(f"# {summary(estimate)}")
    lines += [
        "# Every line says how it was decided. fixed: the same for every data set; rule: from what was",
        "# measured (fingerprint.json); trial: from steps timed here; given: asked for. Change any of it:",
        "# `hilum train` then follows the file, and `hilum plan` leaves it alone unless it is told --force.",
        f"# data set: {name} (content {fingerprint.dataset_sha256[:16]})",
    ]
    return "\n".join(lines) + "\n"


def summary(estimate: Estimate) -> str:
    """Return what a training will take, in a line: memory, and time."""
    where = "of GPU memory" if estimate.device.startswith("cuda") else "of memory"
    memory = (
        f"Needs {gigabytes(estimate.needed_bytes)} {where}, you have "
        f"{gigabytes(estimate.available_bytes)}."
    )
    if not estimate.speed.image_s:
        return f"{memory} Time was not measured."
    cores = f"{estimate.cores} core{'s' if estimate.cores > 1 else ''}"
    several = f", {estimate.members} networks" if estimate.members > 1 else ""
    if estimate.beside:
        other = estimate.beside
        several += f"; {other.members} of another kind, {other.epochs} of {duration(other.epoch_s)}"
    several += f", {estimate.folds} folds" if estimate.folds else ""
    return (
        f"{memory} Takes about {duration(estimate.total_s)} on "
        f"{cores if not estimate.speed.on_gpu else estimate.device}: "
        f"{estimate.epochs} epoch{'s' if estimate.epochs > 1 else ''} of {duration(estimate.epoch_s)}{several}."
    )


def _line(key: str, value: Any, reason: str) -> str:
    return f"{key}: {as_yaml(value)}".ljust(_REASONS_AT) + f"  # {_plain(reason)}"


def _plain(text: str) -> str:
    # on one line, and nothing that a comment in YAML may not hold
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def as_yaml(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
