"""How a model is opened, and how much a worker may use: rules that several processes share."""

from pathlib import Path

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


def check_start(settings: ServiceSettings) -> None:
    """Look in the command at what would end each worker at its start, where nobody is told why.

    What isn't asked for is not imported either: a start without it pays nothing.

    Raises
    ------
    HilumError
        If the receipt log, its key, the API keys, the certificate or the issuer can't be used.
    """
    if settings.receipts:
        from services.inference.receipts import check_receipts

        check_receipts(settings)
    if settings.keys_file:
        from data_schemas.keys import KeyRing

        KeyRing.read_json(Path(settings.keys_file))
    if settings.tls_cert or settings.tls_key:
        from services.inference.tls import server_options

        server_options(settings)
    if settings.oidc_issuer:
        from services.inference.journal import Journal
        from services.inference.tokens import Tokens

        Tokens(settings, Journal())
