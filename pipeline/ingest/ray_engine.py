"""The engine of many machines: Ray Data hands the files out; each Ray actor has its own isolated decoder."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from data_schemas.errors import UsageError
from pipeline.imaging.workers import Crew, End, WorkerLimits
from pipeline.ingest.local_engine import PRELOAD
from pipeline.ingest.records import SourceFile
from pipeline.ingest.taking import Outcome

Task = Callable[[SourceFile], Iterable[Outcome]]

_STORE_BYTES = 200 * 2**20
_BLOCK_FILES = 64
_BATCH_FILES = 16


class _Taker:
    """What a Ray actor carries out: the same worker process as on one machine, fed batch by batch."""

    def __init__(self, task: Task, limits: WorkerLimits) -> None:
        self._crew: Crew[SourceFile, Outcome] = Crew(task, 1, limits, PRELOAD)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> Iterator[dict[str, list[Any]]]:
        from ray import cloudpickle

        numbers = {}
        files = []
        for number, packed in zip(batch["number"], batch["file"], strict=True):
            file = cloudpickle.loads(packed)
            numbers[file.place] = int(number)
            files.append(file)
        for file, said in self._crew.stream(files):
            yield {"number": [numbers[file.place]], "said": [cloudpickle.dumps(said)]}


def stream(
    files: Iterable[SourceFile],
    task: Task,
    workers: int,
    limits: WorkerLimits,
    address: str,
) -> Iterator[tuple[SourceFile, Outcome | End]]:
    """Yield the outcomes of all files as they come, from a Ray cluster.

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
        from ray import cloudpickle
    except ImportError as error:
        raise UsageError(
            "the engine `ray` needs Ray", mend="pip install 'hilum[scale]', or use --engine local"
        ) from error
    listed = list(files)
    if not listed:
        return
    _connect(ray, address)
    try:
        rows = [{"number": k, "file": cloudpickle.dumps(file)} for k, file in enumerate(listed)]
        blocks = max(1, len(rows) // _BLOCK_FILES)
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        answers = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Taker,
            fn_constructor_args=(task, limits),
            batch_size=_BATCH_FILES,
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=1,
        )
        for answer in answers.iter_rows():
            yield listed[answer["number"]], cloudpickle.loads(answer["said"])
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        else:
            ray.init(
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=_STORE_BYTES,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster answers: {error}", where=address or None) from error
