"""Which hilum this is: the version that documents, runs and the doors name."""

from importlib.metadata import PackageNotFoundError, version


def our_version() -> str:
    """Return hilum's version, ``unknown`` when it runs from a tree that isn't installed."""
    try:
        return version("hilum")
    except PackageNotFoundError:
        return "unknown"
