"""Fetches files before they are asked for, several at a time: where each waits on a network."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from data_schemas.errors import ImageError
from pipeline.ingest.records import SourceFile
from pipeline.ingest.sources.listing import refuse

Fetched = bytes | NDArray[Any] | ImageError

_MOST_BYTES = 512 * 2**20


def fetched_ahead(files: Iterable[SourceFile], requests: int) -> Iterator[SourceFile]:
    """Yield every file, in order, with its bytes at hand.

    At most ``requests`` files are fetched or wait to be taken, and of files whose size is known no
    more than half a gigabyte together.
    """
    pool = ThreadPoolExecutor(requests)
    waiting: deque[tuple[SourceFile, Future[Fetched]]] = deque()
    held = 0
    try:
        for file in files:
            size = max(file.size, 0)
            while waiting and (len(waiting) >= requests or held + size > _MOST_BYTES):
                held -= max(waiting[0][0].size, 0)
                yield _at_hand(*waiting.popleft())
            held += size
            waiting.append((file, pool.submit(_fetched, file)))
        while waiting:
            yield _at_hand(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _fetched(file: SourceFile) -> Fetched:
    try:
        return file.fetch()
    except ImageError as error:
        return error
    except OSError:
        return ImageError("UNREADABLE", "the file can't be read from its storage")


def _at_hand(file: SourceFile, future: Future[Fetched]) -> SourceFile:
    data = future.result()
    if isinstance(data, ImageError):
        return replace(file, fetch=partial(refuse, data.code, data.what))
    return replace(file, fetch=partial(_itself, data))


def _itself(data: bytes | NDArray[Any]) -> bytes | NDArray[Any]:
    return data
