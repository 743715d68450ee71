"""Gives memory that was needed for a moment back to the system."""

import ctypes


def give_back() -> None:
    """Return freed memory that the C library keeps for later, where it is glibc; elsewhere nothing.

    Reading a graph takes several times its size for a moment (81 MiB of ResNet-18's 260 stayed with
    the process); what is kept and never asked for again is memory that a container must have.
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
