"""The engine of one machine: isolated processes, one for each core."""

from collections.abc import Callable, Iterable, Iterator

from pipeline.imaging.workers import Crew, End, WorkerLimits
from pipeline.ingest.records import SourceFile
from pipeline.ingest.taking import Outcome
from pipeline.model.cores import available_cores

PRELOAD = ("pipeline.ingest.taking",)


def stream(
    files: Iterable[SourceFile],
    task: Callable[[SourceFile], Iterable[Outcome]],
    workers: int,
    limits: WorkerLimits,
) -> Iterator[tuple[SourceFile, Outcome | End]]:
    """Yield the outcomes of all files as they come. ``workers``: processes; 0: one for each core."""
    with Crew(task, workers or available_cores(), limits, PRELOAD) as crew:
        yield from crew.stream(files)
