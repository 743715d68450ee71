"""Walk the whole road on a drawn cohort of fundus photographs. Needs no network and no data.

Draws phantom patients, ingests them, trains, evaluates and registers a small network, trains the
report writer, serves the model, scores one DICOM file over HTTP and writes a draft report. Each step
is a `hilum` command, printed before it runs; about four minutes on two cores.

    hilum demo
    hilum demo --patients 40 --out small-demo
    hilum demo --stay                the service stays up for a look at its page, until Ctrl-C
    hilum demo --only-cohort         draw the photographs and stop

Runs go where every command puts them: $MLFLOW_TRACKING_URI, or mlflow.db in the current folder. A
folder of an earlier demo is replaced; any other folder is left alone.
"""

import argparse
import os
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn

from services.cli.console import Console

FOR_CHILDREN = {
    # everybody's demo has the same pseudonyms, so the same data set digest; its patients don't exist
    "HILUM_PSEUDONYM_KEY": "hilum-demo-key-no-secret",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""What the tour's commands find in their environment, on top of the caller's."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--out", type=Path, default=Path("hilum-demo"), help="folder to write (default hilum-demo)"
    )
    parser.add_argument("--patients", type=int, default=340, help="phantom patients (default 340)")
    parser.add_argument("--seed", type=int, default=0, help="another cohort (default 0)")
    parser.add_argument("--port", type=int, default=0, help="of the service (default: a free one)")
    parser.add_argument("--only-cohort", action="store_true", help="draw the cohort and stop")
    parser.add_argument(
        "--stay", action="store_true", help="leave the service up at the end, until Ctrl-C"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the tour; 0 if every step did, else the code of the step that failed."""
    from pipeline.demo.tour import Tour, summary_text, tour
    from services.cli.settings import tracking_uri

    # children are ended in a `finally`; SIGTERM must not pass it by
    signal.signal(signal.SIGTERM, _interrupt)
    plan = Tour(
        out=options.out,
        patients=options.patients,
        seed=options.seed,
        port=options.port,
        only_cohort=options.only_cohort,
        stay=options.stay,
        tracking_uri=tracking_uri(),
        environment={**os.environ, **FOR_CHILDREN},
    )
    told: list[bool] = []

    def tell(summary: dict[str, object]) -> None:
        told.append(True)
        console.result(summary_text(summary), summary)

    return tour(plan, console.say, console.progress, tell)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - signal's signature
    raise KeyboardInterrupt
