"""The guided tour: the whole road on a drawn cohort, each step the command that a user would type."""

import base64
import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_schemas.card import Card, Interval
from data_schemas.dataset import REFUSALS
from data_schemas.errors import HilumError, UsageError
from data_schemas.files import write_bytes, write_text
from data_schemas.progress import Progress
from pipeline.demo.cohort import draw_cohort, read_truth
from pipeline.demo.pointing import point
from pipeline.demo.sheet import contact_sheet
from pipeline.demo.steps import Say, StepFailedError, Walk
from pipeline.ingest.store import Dataset, open_dataset
from pipeline.model.package import open_package
from pipeline.tracking.page import page_of
from pipeline.tracking.registry import fetch_package

MARKER = ".hilum-demo"
"""A folder with this file in it was made by the demo, and may be replaced by it."""
MODEL = "fundus-demo"
SIZE = 224
STEPS = 8
LEARNING = {"train": 96, "tune": 12}
"""Patients that a cohort larger than twice as many learns from: more would take longer than a minute."""

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Tour:
    """What the door decides about a tour."""

    out: Path
    patients: int
    seed: int
    port: int
    only_cohort: bool
    stay: bool
    tracking_uri: str
    environment: Mapping[str, str]


def tour(plan: Tour, say: Say, progress: Progress, tell: Tell) -> int:
    """Walk the road; return 0, or the code of the step that failed.

    ``tell`` gets the summary once the draft is written (before the service ends).

    Raises
    ------
    UsageError
        If ``plan.out`` holds something that isn't a demo's.
    """
    out = claim(plan.out)
    walk = Walk(say, plan.environment, total=1 if plan.only_cohort else STEPS)
    try:
        cohort = out / "cohort"
        with walk.step("Draw phantom patients: photographs, labels, a few faults, and the truth."):
            drawn = draw_cohort(cohort, patients=plan.patients, seed=plan.seed, progress=progress)
            contact_sheet(cohort, out / "contact-sheet.png")
            say(f"    {len(drawn.rows)} photographs, {len(drawn.faults)} files that are none")
            say(f"    contact sheet: {out / 'contact-sheet.png'}")
        if plan.only_cohort:
            tell({"cohort": str(cohort), "photographs": len(drawn.rows)})
            return 0
        run_id = _learn(walk, out, plan.patients)
        _walk_on(plan, walk, out, run_id, tell)
    except StepFailedError as failed:
        return failed.code
    return 0


def claim(out: Path) -> Path:
    """Make ``out`` an empty folder that carries our marker.

    Raises
    ------
    UsageError
        If it is there and neither empty nor an earlier demo's.
    """
    if out.exists():
        ours = out.is_dir() and (out / MARKER).is_file()
        if not ours and not (out.is_dir() and not any(out.iterdir())):
            raise UsageError(
                "is not a demo's folder, and not empty: nothing was touched",
                where=out,
                mend="name another one: hilum demo --out FOLDER",
            )
        shutil.rmtree(out)
    out.mkdir(parents=True)
    write_text(out / MARKER, "made by `hilum demo`, which replaces this folder when run again\n")
    return out


def shares(patients: int) -> tuple[str, ...]:
    """Return the options that put a large cohort's patients into calibration and test.

    A calibration error can't be told from chance on few images: of two demos' networks, perfect ones
    would have measured 0.04 on 48 images, and 0.02 and 0.03 on 307 and 228.
    """
    rest = patients - sum(LEARNING.values())
    if rest < sum(LEARNING.values()):
        return ()
    parts = {split: round(count / patients, 3) for split, count in LEARNING.items()}
    parts["calibration"] = round(0.4 * rest / patients, 3)
    parts["test"] = round(1 - sum(parts.values()), 3)
    return ("--shares", ",".join(f"{split}={share:g}" for split, share in parts.items()))


def _learn(walk: Walk, out: Path, patients: int) -> str:
    """Ingest, train, evaluate, register; return the run's id."""
    dataset = str(out / "dataset")
    with walk.step(
        "Read every file on the one pixel road; refuse what is no image, with a reason."
    ):
        walk.hilum(
            *("ingest", str(out / "cohort/archive"), "--labels", str(out / "cohort/labels.csv")),
            *("--contract", "fundus", "--set", f"size={SIZE}"),
            *("--name", MODEL, "--out", dataset, *shares(patients)),
        )
        walk.say(_refusals_text(_refusals(out)))
    with walk.step("Train a small network from scratch, every step tracked in MLflow."):
        printed = walk.hilum("train", dataset, "--config", "demo")
        run_id = _run_id(printed)
    with walk.step("Measure it on patients it has never seen, through the package to be served."):
        walk.hilum("evaluate", run_id, "--dataset", dataset)
    with walk.step("Put the package into the registry as champion."):
        walk.hilum("register", run_id, "--name", MODEL, "--alias", "champion")
    return run_id


def _walk_on(plan: Tour, walk: Walk, out: Path, run_id: str, tell: Tell) -> None:
    """Point, train the writer, serve, score, draft; then tell the summary."""
    dataset = open_dataset(out / "dataset")
    package = open_package(
        fetch_package(f"models:/{MODEL}@champion", plan.tracking_uri, out / "package").folder
    )
    with walk.step("Ask whether the evidence points at the lesions that were drawn."):
        found = point(package, dataset, out / "cohort")
        figures = {"found": found.found, "permuted": found.permuted}
        pointing = {name: interval.model_dump() for name, interval in figures.items()}
        pointing["chance"] = found.chance  # type: ignore[assignment]
        walk.say(_pointing_text(pointing))
    with walk.step("Train the report writer on simulated findings."):
        walk.hilum("train-report", "--out", str(out / "writer"))
    with (
        walk.step("Serve the champion, send it one DICOM file, draft a report from the answer."),
        walk.serving(f"models:/{MODEL}@champion", "--port", str(plan.port)) as url,
    ):
        image = _referable_dicom(dataset, out / "cohort")
        score = _score(walk, url, image, out)
        draft = walk.hilum("report", str(out / "score.json"), "--writer", str(out / "writer"))
        write_text(out / "draft.txt", draft)
        tell(
            {
                "out": str(out),
                "run_id": run_id,
                "image": str(image),
                "score": score,
                "draft": draft,
                "refusals": _refusals(out),
                "evaluation": _statistics(package.card),
                "pointing": pointing,
                "tracking_uri": plan.tracking_uri,
                "service": url,
            }
        )
        if plan.stay:
            walk.say(f"\nthe service stays up at {url}; Ctrl-C ends it")
            _wait()


def _wait() -> None:

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return


def _run_id(printed: str) -> str:
    found = re.search(r"^run (\w+)$", printed, flags=re.MULTILINE)
    if found is None:
        raise HilumError("`hilum train` named no run")
    return found[1]


def _refusals(out: Path) -> list[dict[str, Any]]:
    table = pq.read_table(out / "dataset" / "refusals.parquet").to_pylist()
    counts = Counter(row["code"] for row in table)
    reasons = {row["code"]: row["reason"] for row in reversed(table)}
    return [
        {"code": code, "files": count, "meaning": REFUSALS[code], "example": reasons[code]}
        for code, count in sorted(counts.items())
    ]


def _refusals_text(refusals: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"    refused {row['files']:>3}  {row['code']:<16} such as: {row['example']}"
        for row in refusals
    )


def _statistics(card: Card) -> dict[str, Any]:
    measured = card.evaluation
    if measured is None:
        return {}
    return {
        "images": measured.images,
        "patients": measured.patients,
        **{name: found.model_dump() for name, found in measured.statistics.items()},
    }


def _referable_dicom(dataset: Dataset, cohort: Path) -> Path:
    """Return the first DICOM file of the test split whose truth is referable."""
    truth = read_truth(cohort)
    columns = dataset.manifest.select(["source_sha256", "format", "split", "label_referable"])
    for row in columns.to_pylist():
        if (row["format"], row["split"], row["label_referable"]) == ("dicom", "test", 1):
            return cohort / "archive" / truth[row["source_sha256"]]["image"]
    raise HilumError("the test split holds no referable DICOM file", mend="draw more patients")


def _score(walk: Walk, url: str, image: Path, out: Path) -> dict[str, Any]:
    """Send a file to the service; keep the answer, and its overlay as a picture."""
    # this machine's own service: no proxy has a part in it
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    _await_ready(opener, url)
    address = f"{url}/v1/scores?evidence=true"
    walk.say(f"    $ curl --data-binary @{image} '{address}' > {out / 'score.json'}")
    request = urllib.request.Request(  # noqa: S310 - our own http address
        address, data=image.read_bytes(), headers={"Content-Type": "application/dicom"}
    )
    try:
        with opener.open(request, timeout=60) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        raise HilumError(f"the service answered {error.code}: {error.read()[:500]!r}") from error
    write_bytes(out / "score.json", body)
    score: dict[str, Any] = json.loads(body)
    for evidence in score["evidence"]:
        picture = base64.b64decode(evidence.pop("overlay_png"))
        if evidence["label"] == score["primary"] and picture:
            write_bytes(out / "overlay.png", picture)
        del evidence["values"]
    probability = score["probabilities"][score["primary"]]["1"]
    walk.say(f"    {score['primary']} {probability:.3f}: {score['verdict']}")
    return score


def _await_ready(opener: urllib.request.OpenerDirector, url: str, patience_s: float = 60) -> None:
    """Ask ``/readyz`` until it says yes: the port is open before the network is loaded."""
    give_up = time.monotonic() + patience_s
    while True:
        try:
            with opener.open(f"{url}/readyz", timeout=10):
                return
        except urllib.error.URLError as error:
            if time.monotonic() > give_up:
                message = f"the service was not ready after {patience_s:.0f} s: {error.reason}"
                raise HilumError(message) from error
        time.sleep(0.1)


def _pointing_text(pointing: dict[str, Any]) -> str:
    rows = (("trained network", "found"), ("permuted weights", "permuted"))
    lines = [f"    {name:<18}{_share(pointing[key])}" for name, key in rows]
    lines.append(f"    {'a random cell':<18}{pointing['chance'] or 0:.0%}")
    return "\n".join(["    strongest evidence inside a lesion, of true positives:", *lines])


def _share(found: dict[str, Any]) -> str:
    interval = Interval.model_validate(found)
    if interval.value is None:
        return "undefined: no true positive"
    return (
        f"{interval.value:.0%} ({interval.numerator} of {interval.denominator}, "
        f"95 % interval {interval.low or 0:.0%} to {interval.high or 0:.0%})"
    )


def summary_text(summary: dict[str, Any]) -> str:
    """Return the end of the tour as text."""
    if "score" not in summary:
        return f"{summary['photographs']} photographs in {summary['cohort']}"
    score, out = summary["score"], summary["out"]
    point_of = score["threshold"]
    probabilities = "\n".join(
        f"  {row['name']:<14} {row['probability']:.3f}  {row['state']}" for row in score["findings"]
    )
    auc = summary["evaluation"].get(f"auc/{score['primary']}", {})
    ece = summary["evaluation"].get(f"ece/{score['primary']}", {})
    return f"""
================ the whole road, once ================

scored over HTTP: {summary["image"]}
  verdict: {score["verdict"]} ({score["primary"]} at {point_of:.3f} or more)
{probabilities}
  evidence over the picture: {out}/overlay.png

draft report ({out}/draft.txt):
{_indented(summary["draft"])}

refused by ingestion:
{_refusals_text(summary["refusals"])}

test split: {summary["evaluation"].get("images")} images of {summary["evaluation"].get("patients")} patients
  AUC {score["primary"]}: {auc.get("value") or 0:.3f} (95 % interval {auc.get("low") or 0:.3f} to {auc.get("high") or 0:.3f})
  calibration error: {ece.get("value") or 0:.3f} (95 % interval {ece.get("low") or 0:.3f} to {ece.get("high") or 0:.3f})
{_pointing_text(summary["pointing"])}

next
  hilum serve models:/{MODEL}@champion            then its page: http://127.0.0.1:8080
  {page_of(summary["tracking_uri"])}
                                                  the reviewer's page, run {summary["run_id"]}
  hilum report {out}/score.json
  photographs: {out}/contact-sheet.png
"""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
