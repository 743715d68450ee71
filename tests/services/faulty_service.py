"""`hilum serve` with a reader that a marked body kills or hangs: patched here, before anything forks."""

import os
import signal
import sys
import time

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


decoders.read_any_kind = read
sys.exit(main(["serve", *sys.argv[1:]]))
