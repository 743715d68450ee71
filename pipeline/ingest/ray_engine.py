"""The engine of many machines: each Ray actor has its own isolated decoder, and is handed files by bunches."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from data_schemas.errors import UsageError
from pipeline.imaging.workers import Crew, End, WorkerLimits
from pipeline.ingest.local_engine import PRELOAD
from pipeline.ingest.records import SourceFile

Out = TypeVar("Out")

_STORE_BYTES = 200 * 2**20
_BUNCH_FILES = 256
_LEAST_BUNCHES = 4
"""For each actor, so that none waits long for the last one."""
_HELD_FILES, _HELD_BYTES = 64, 8 * 2**20
"""What an actor tells at once: Ray takes some milliseconds for each message, whatever it holds."""


class _Taker(Generic[Out]):
    """What a Ray actor carries out: the same worker process as on one machine, fed bunch by bunch."""

    def __init__(
        self,
        task: Callable[[SourceFile], Iterable[Out]],
        limits: WorkerLimits,
        preload: tuple[str, ...],
    ) -> None:
        self._crew: Crew[SourceFile, Out] = Crew(task, 1, limits, preload)

    def take(
        self, numbers: range, files: list[SourceFile]
    ) -> Iterator[list[tuple[int, list[Out | End]]]]:
        """Yield (number, all that was said of the file), some files at a time."""
        number_of = {file.place: number for number, file in zip(numbers, files, strict=True)}
        begun: dict[str, list[Out | End]] = {}
        done: list[tuple[int, list[Out | End]]] = []
        held = 0
        for file, said in self._crew.stream(files):
            begun.setdefault(file.place, []).append(said)
            held += len(getattr(said, "pixels", b""))
            if isinstance(said, End):
                done.append((number_of[file.place], begun.pop(file.place)))
            if done and (held > _HELD_BYTES or len(done) == _HELD_FILES):
                yield done
                done, held = [], 0
        if done:
            yield done


def stream(
    files: Iterable[SourceFile],
    task: Callable[[SourceFile], Iterable[Out]],
    workers: int,
    limits: WorkerLimits,
    address: str,
    preload: tuple[str, ...] = PRELOAD,
) -> Iterator[tuple[SourceFile, Out | End]]:
    """Yield the outcomes of all files as they come, from a Ray cluster.

    Actors are called directly: Ray Data, which was used before, took as long for its blocks and
    its schedule as a small file takes to be decoded.

    Parameters
    ----------
    workers
        Actors with a decoder each; 0: one for each CPU of the cluster.
    address
        Of a running cluster; empty: one is started on this machine and stopped at the end.

    Raises
    ------
    UsageError
        If Ray isn't installed or the cluster can't be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "the engine `ray` needs Ray", mend="pip install 'hilum[scale]', or use --engine local"
        ) from error
    listed = list(files)
    if not listed:
        return
    _connect(ray, address)
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = min(workers or cores, cores, len(listed))
        # an actor whose node is lost starts again elsewhere and takes its bunch once more
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Taker)
        actors = [actor.remote(task, limits, preload) for _ in range(count)]
        heard = bytearray(len(listed))
        for number, told in _told(ray, actors, listed):
            if heard[number]:  # told once more by the actor that took over from one that was lost
                continue
            heard[number] = 1
            for said in told:
                yield listed[number], said
    finally:
        ray.shutdown()


def _told(ray: Any, actors: list[Any], listed: list[SourceFile]) -> Iterator[tuple[int, list[Any]]]:
    """Yield (number, what was said) of all files. Every actor has a bunch at work and one waiting."""
    size = max(1, min(_BUNCH_FILES, len(listed) // (_LEAST_BUNCHES * len(actors))))
    starts = iter(range(0, len(listed), size))

    def hand_out(actor: Any) -> Any:
        start = next(starts, None)
        if start is None:
            return None
        bunch = listed[start : start + size]
        take = actor.take.options(num_returns="streaming")
        return take.remote(range(start, start + len(bunch)), bunch)

    answers = {
        answer: actor for actor in (*actors, *actors) if (answer := hand_out(actor)) is not None
    }
    while answers:
        ready, _ = ray.wait(list(answers), num_returns=1, fetch_local=False)
        (answer,) = ready
        try:
            reference = next(answer)
        except StopIteration:
            actor = answers.pop(answer)
            following = hand_out(actor)
            if following is not None:
                answers[following] = actor
            continue
        yield from ray.get(reference)


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            "no Ray cluster answers there", where=address or None, mend="see `ray status`"
        ) from error
