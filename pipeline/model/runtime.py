"""A package's graph in a runtime: uint8 images in; logits, evidence and embeddings out."""

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import HilumError, PackageError, UsageError
from pipeline.model.graph import Graph, Outputs, Setup, joined
from pipeline.model.kinds import BASE, Kind, batch_for, identity_of, missing
from pipeline.model.memory import give_back
from pipeline.model.package import Package, verification
from pipeline.model.sums import GRAPH, INT8_GRAPH


class Scorer(Protocol):
    """What scoring needs of a runtime."""

    @property
    def identity(self) -> str:
        """How scores and receipts name it."""
        ...

    @property
    def bias(self) -> NDArray[np.float32]:
        """Of each logit, [K]: a logit is the mean of its evidence plus this."""
        ...

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run uint8 [N, size, size, channels]."""
        ...


class Runtime:
    """A loaded graph. Safe to use from several threads at once.

    Parameters
    ----------
    package
        An opened package.
    threads
        Threads of one run. Several runs side by side with one thread each use a CPU better than
        one run with several threads.
    kind
        Runtime and precision. Whether the package may be scored in it is not asked here:
        :func:`pipeline.model.opening.open_runtime` does.
    streams
        Runs at once; more callers wait. ONNX Runtime runs on its callers' threads, however many.
    batch
        Images of one run; ``None``: by rule, one on a CPU and several on a GPU. Every run has that
        shape, filled up with black images where there are fewer: what an image is answered
        depends neither on its neighbours nor on their number.

    Raises
    ------
    PackageError
        If the graph can't be loaded, its inputs and outputs aren't those of the card, the package
        has no int8 graph, or what was compiled has another precision than was asked for.
    UsageError
        If this machine doesn't have the runtime or the precision.
    """

    def __init__(
        self,
        package: Package,
        threads: int = 1,
        *,
        kind: Kind = BASE,
        streams: int = 1,
        batch: int | None = 1,
    ) -> None:
        self.batch = batch_for(kind) if batch is None else batch
        absent = missing(kind, self.batch)
        if absent:
            raise UsageError(absent, mend="install it, or score with ONNX Runtime on the CPU")
        name = INT8_GRAPH if kind.precision == "int8" else GRAPH
        where = package.folder / name
        if name not in package.digests:
            raise PackageError(
                "the package has no int8 graph", where=where, mend="make one: hilum quantize"
            )
        self._shape = (package.card.size, package.card.size, package.card.channels)
        columns = sum(len(output.columns) for output in package.card.outputs)
        setup = Setup(self._shape, columns, where, threads, streams)
        try:
            self._graph = _opened(package, name, setup, kind)
        except HilumError:
            raise
        except Exception as error:  # the runtimes' own exceptions share no base class
            raise PackageError(f"{kind.runtime} can't load it: {error}", where=where) from error
        if self._graph.precision != kind.precision:
            raise PackageError(
                f"was asked for in {kind.precision}, {kind.runtime} compiled it to "
                f"{self._graph.precision}",
                where=where,
            )
        give_back()
        self.kind = kind
        self.bias = verification(package).bias
        self.identity = identity_of(kind, self._graph.version, self.batch)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run the graph.

        Parameters
        ----------
        images
            uint8 [N, size, size, channels], as ``prepare`` makes them.

        Raises
        ------
        UsageError
            If dtype or shape differ.
        PackageError
            If an answer isn't finite.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self._shape:
            raise UsageError(
                f"images are {images.dtype} {list(images.shape)}, this model takes uint8 "
                f"[N, {', '.join(map(str, self._shape))}]"
            )
        outputs = self._graph.run(images) if self.batch == 1 else self._filled(images)
        if not np.isfinite(outputs.logits).all():
            raise PackageError("the model answered a logit that is not a finite number")
        return outputs

    def _filled(self, images: NDArray[np.uint8]) -> Outputs:
        """Run images in batches of one shape."""
        parts = []
        for start in range(0, len(images), self.batch):
            some = images[start : start + self.batch]
            whole = np.zeros((self.batch, *self._shape), np.uint8)
            whole[: len(some)] = some
            parts.append(self._graph.run(whole).rows(0, len(some)))
        return parts[0] if len(parts) == 1 else joined(parts)


def _opened(package: Package, name: str, setup: Setup, kind: Kind) -> Graph:
    cuda = kind.runtime == "cuda"
    if kind.runtime != "openvino" and package.sums.unchanged(name):
        from pipeline.model.session import OnnxGraph

        # ONNX Runtime reads the file itself: a copy of it in memory costs as long as hashing it
        found = OnnxGraph(setup.where, setup, cuda=cuda)
        if package.sums.unchanged(name):
            return found
    with ThreadPoolExecutor(1) as reading:
        # while the file is read and hashed, the runtime is imported
        graph = reading.submit(package.read, name)
        if kind.runtime == "openvino":
            from pipeline.model.vino import OpenVinoGraph

            return OpenVinoGraph(graph.result(), setup, kind.precision)
        from pipeline.model.session import OnnxGraph

        return OnnxGraph(graph.result(), setup, cuda=cuda)
