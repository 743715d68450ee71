"""The engine of many machines: Ray Data hands the files out; each Ray actor has its own isolated decoder."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from data_schemas.errors import UsageError
from pipeline.imaging.workers import Crew, End, WorkerLimits
from pipeline.ingest.local_engine import PRELOAD
from pipeline.ingest.records import SourceFile

Out = TypeVar("Out")

_STORE_BYTES = 200 * 2**20
_BLOCK_FILES = 256
_LEAST_BLOCKS = 4
"""For each actor, so that none waits long for the last one."""
_BATCH_FILES = 64
_HELD_BYTES = 8 * 2**20
"""What an actor tells at once: Ray takes some milliseconds for each message, whatever it holds."""


class _Taker(Generic[Out]):
    """What a Ray actor carries out: the same worker process as on one machine, fed batch by batch."""

    def __init__(
        self,
        task: Callable[[SourceFile], Iterable[Out]],
        limits: WorkerLimits,
        preload: tuple[str, ...] = PRELOAD,
    ) -> None:
        self._crew: Crew[SourceFile, Out] = Crew(task, 1, limits, preload)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> Iterator[dict[str, list[Any]]]:
        from ray import cloudpickle

        files = [cloudpickle.loads(packed) for packed in batch["file"]]
        numbers = {file.place: int(k) for file, k in zip(files, batch["number"], strict=True)}
        begun: dict[str, list[Out | End]] = {}
        done: dict[str, list[Any]] = {"number": [], "told": []}
        held = 0
        for file, said in self._crew.stream(files):
            begun.setdefault(file.place, []).append(said)
            if isinstance(said, End):
                told = cloudpickle.dumps(begun.pop(file.place))
                done["number"].append(numbers[file.place])
                done["told"].append(told)
                held += len(told)
            if held > _HELD_BYTES:
                yield done
                done, held = {"number": [], "told": []}, 0
        if done["told"]:
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
        import ray.data
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
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"number": k, "file": cloudpickle.dumps(file)} for k, file in enumerate(listed)]
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = min(workers or cores, cores)
        blocks = min(len(rows), max(_LEAST_BLOCKS * count, len(rows) // _BLOCK_FILES))
        answers = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Taker,
            fn_constructor_args=(task, limits, preload),
            batch_size=_BATCH_FILES,
            compute=ray.data.ActorPoolStrategy(min_size=count, max_size=count),
            num_cpus=1,
        )
        heard = bytearray(len(listed))
        for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            for number, told in zip(table["number"].to_pylist(), table["told"], strict=True):
                if heard[
                    number
                ]:  # told once more by the node that took over from one that was lost
                    continue
                heard[number] = 1
                for said in cloudpickle.loads(told.as_buffer()):
                    yield listed[number], said
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
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
