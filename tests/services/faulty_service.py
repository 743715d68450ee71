"""`hilum serve` with a reader that a marked body kills or hangs: patched here, before anything forks."""

import os
import signal
import sys
import time
from pathlib import Path

import pipeline.model.opening as opening
import services.inference.decoders as decoders
from services.cli.main import main

_read = decoders.read_any_kind


def read(data, contract):
    if data == b"segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        time.sleep(3600)
    if data == b"memory":
        bytearray(64 * 2**30)
    if data == b"slow":
        time.sleep(1.5)
    return _read(data, contract)


_open = opening.open_runtime


def open_runtime(*words, **named):
    if os.environ.get("FAULTY_WITHOUT") and Path(os.environ["FAULTY_WITHOUT"]).exists():
        raise MemoryError
    return _open(*words, **named)


decoders.read_any_kind = read
opening.open_runtime = open_runtime
sys.exit(main(["serve", *sys.argv[1:]]))
