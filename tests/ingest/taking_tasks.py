"""What workers carry out in tests. A module of its own: worker processes import it."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_schemas.contract import Contract
from pipeline.ingest.records import SourceFile
from pipeline.ingest.taking import Outcome, take_file


def work(thing: str) -> Iterator[object]:  # noqa: C901
    """Do what the thing's first word says, as a decoder on a bad day would."""
    word, _, number = thing.partition(" ")
    if word == "hang":
        time.sleep(600)
    elif word == "spin":
        while True:
            pass
    elif word == "crash":
        ctypes.string_at(0)
    elif word == "exit":
        os._exit(3)
    elif word == "eat":
        yield len(np.ones(2**29, np.uint8))
    elif word == "raise":
        raise ValueError("with a patient's name")
    elif word == "halfway":
        yield "first"
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "large":
        yield os.urandom(3_000_000)
        yield "and more"
    elif word == "who":
        time.sleep(0.05)
        yield os.getpid()
    yield number


def take_badly(
    file: SourceFile, contract: Contract, key: bytes, known: np.ndarray | None, spool: Path
) -> Iterator[Outcome]:
    """Take a file with a decoder that files called ``crash`` and ``hang`` are too much for."""
    if file.place in ("crash", "hang"):
        list(work(file.place))
    yield from take_file(file, contract, key, known, spool)
