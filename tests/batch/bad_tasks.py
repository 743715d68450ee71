"""What workers carry out in tests. A module of its own: worker processes import it."""

import ctypes
import time
from pathlib import Path

import pipeline.batch.task
from pipeline.batch.task import score_file


def score_badly(file, model, evidence=None, known=None):
    """Score a file with a decoder that some files are too much for."""
    name = Path(file.place).name
    if name == "crash":
        ctypes.string_at(0)
    if name == "hang":
        time.sleep(600)
    if name == "fault":
        _break()
    return score_file(file, model, evidence, known)


def _break():
    def broken(*_, **__):
        raise RuntimeError("Mrs Example, born 1950")

    pipeline.batch.task.score_bytes = broken


def score_counted(file, model, evidence=None, known=None):
    """Score a file, and write down that it was."""
    with Path(model.folder).with_name("scored").open("a") as log:
        log.write(f"{file.place}\n")
    return score_file(file, model, evidence, known)
