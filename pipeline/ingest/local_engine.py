"""The engine of one machine: isolated processes, one for each core."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.imaging.workers import Crew, End, WorkerLimits
from pipeline.ingest.records import SourceFile
from pipeline.model.cores import available_cores

Out = TypeVar("Out")

PRELOAD = ("pipeline.ingest.taking",)


def stream(
    files: Iterable[SourceFile],
    task: Callable[[SourceFile], Iterable[Out]],
    workers: int,
    limits: WorkerLimits,
    preload: tuple[str, ...] = PRELOAD,
) -> Iterator[tuple[SourceFile, Out | End]]:
    """Yield the outcomes of all files as they come.

    Parameters
    ----------
    workers
        Processes; 0: one for each core.
    preload
        Modules that ``task`` needs, imported once and not by every process.
    """
    with Crew(task, workers or available_cores(), limits, preload) as crew:
        yield from crew.stream(files)
