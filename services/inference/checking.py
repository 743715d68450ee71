"""What a model must pass before it scores, and how much a worker may use: rules that several processes share."""

from typing import TYPE_CHECKING

from data_schemas.errors import PackageError
from pipeline.imaging.workers import WorkerLimits
from pipeline.model.package import Package
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from pipeline.model.runtime import Runtime

TOLERANCE = 1e-4
"""Largest allowed |logit here - logit at export| over the package's verification images."""


class CheckError(PackageError):
    """A package whose verification images give other logits here than at export."""


def checked(package: Package, runtime: "Runtime") -> float:
    """Return the largest difference of a logit over the verification set.

    Raises
    ------
    CheckError
        If it is over :data:`TOLERANCE`.
    """
    from pipeline.model.runtime import largest_difference

    difference = largest_difference(package, runtime)
    if not difference <= TOLERANCE:
        raise CheckError(
            f"the verification images give logits {difference:.2g} away from the stored ones,"
            f" {TOLERANCE:.0e} is allowed"
        )
    return difference


def worker_count(settings: ServiceSettings) -> int:
    """Return how many workers serve: as set, or one for each eight cores.

    Decoding and the network run outside Python's lock, what is left of a request in it is 2 ms or so:
    one process keeps eight cores busy, and each further one holds the model once more.
    """
    from pipeline.model.cores import available_cores

    return settings.workers or -(-available_cores() // 8)


def decode_limits(settings: ServiceSettings) -> WorkerLimits:
    """Return what decoding one file may cost."""
    return WorkerLimits(settings.decode_seconds, settings.decode_memory_mb * 2**20)
