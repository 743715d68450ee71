"""What makes the pixels: the versions of hilum and of the libraries whose decoders and filters it uses."""

from functools import cache
from importlib.metadata import version

from data_schemas.version import our_version

_LIBRARIES = ("imagecodecs", "numpy", "pillow")


@cache
def pixel_makers() -> str:
    """Return one line that differs where prepared pixels may differ for the same file and contract."""
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"hilum {our_version()}, {libraries}"
