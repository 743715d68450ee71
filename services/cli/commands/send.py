"""Send what a run logged while its MLflow store was away: metrics, tags, files and how it ended.

    hilum send .hilum/state/3f2a9c...        # the folder that `hilum train` named
    hilum send                               # every run below .hilum/state in which something waits

Letters go in order and keep the times they were written at. The command may be stopped and given
again at any moment; nothing arrives twice. Runs go to the store they were begun in, or to
$MLFLOW_TRACKING_URI if it is set (the same store under another address, or with a password).
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import HilumError, UsageError
from services.cli.console import Console

if TYPE_CHECKING:
    from pipeline.tracking.sending import Sent

STATE_TAG = "hilum.state"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder",
        metavar="RUN_FOLDER",
        type=Path,
        nargs="?",
        default=Path(".hilum/state"),
        help="a run's state folder, or one that holds several (default: .hilum/state)",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Send; 0 when nothing waits any longer, 1 when the store refused something for good."""
    from pipeline.tracking.sending import send, waiting_runs
    from services.cli.settings import tracking_uri

    folder = options.folder.absolute()
    if not folder.is_dir() and not folder.parent.is_dir():
        raise UsageError("no such folder", where=folder)
    uri = tracking_uri() if os.environ.get("MLFLOW_TRACKING_URI", "").strip() else ""
    sent: list[Sent] = []
    faults: list[HilumError] = []
    for place in waiting_runs(folder):
        try:
            one = send(place, uri, _progress(console))
        except HilumError as error:
            faults.append(error)
            continue
        _clear(place, one)
        sent.append(one)
    lines = [_line(one) for one in sent]
    if not faults:
        lines = lines or ["nothing waits to be sent"]
    if lines:
        console.result("\n".join(lines), {"sent": [_tree(one) for one in sent]})
    for fault in faults[:-1]:
        console.error(fault)
    if faults:
        raise faults[-1]
    return 1 if any(one.refused for one in sent) else 0


def _progress(console: Console) -> Any:
    most = 0

    def heard(waiting: int) -> None:
        nonlocal most
        most = max(most, waiting)
        console.progress(most - waiting, most, "letters")

    return heard


def _clear(place: Path, sent: "Sent") -> None:
    """Remove the checkpoints of a run that has finished: nothing goes on from them."""
    if sent.status == "FINISHED" and not sent.refused and sent.tags.get(STATE_TAG) == str(place):
        shutil.rmtree(place, ignore_errors=True)


def _line(one: "Sent") -> str:
    line = f"run {one.run_id} is {one.status}: {one.letters} letters sent"
    if one.refused:
        line += f", {one.refused} refused for good and kept in refused.jsonl"
    return line


def _tree(one: "Sent") -> dict[str, Any]:
    return {
        "run_id": one.run_id,
        "tracking_uri": one.uri,
        "letters": one.letters,
        "refused": one.refused,
        "status": one.status,
    }
