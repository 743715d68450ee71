"""How a model is opened, and how much a worker may use: rules that several processes share."""

from pipeline.imaging.workers import WorkerLimits
from pipeline.model.opening import Wish
from services.inference.settings import ServiceSettings


def wish_of(settings: ServiceSettings) -> Wish:
    """Return the runtime and precision that the settings ask for."""
    return Wish(settings.runtime, settings.precision)


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
