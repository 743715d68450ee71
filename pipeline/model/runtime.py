"""A package's graph in a runtime: uint8 images in; logits, evidence and embeddings out."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import HilumError, PackageError, UsageError
from pipeline.model.graph import Graph, Outputs, Setup
from pipeline.model.kinds import BASE, Kind, identity_of, missing
from pipeline.model.package import GRAPH, INT8_GRAPH, Package, verification


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

    Raises
    ------
    PackageError
        If the graph can't be loaded, its inputs and outputs aren't those of the card, the package
        has no int8 graph, or what was compiled has another precision than was asked for.
    UsageError
        If this machine doesn't have the runtime or the precision.
    """

    def __init__(
        self, package: Package, threads: int = 1, *, kind: Kind = BASE, streams: int = 1
    ) -> None:
        absent = missing(kind)
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
            self._graph = _opened(package.read(name), setup, kind)
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
        self.kind = kind
        self.bias = verification(package).bias
        self.identity = identity_of(kind, self._graph.version)

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
        outputs = self._graph.run(images)
        if not np.isfinite(outputs.logits).all():
            raise PackageError("the model answered a logit that is not a finite number")
        return outputs


def _opened(graph: bytes, setup: Setup, kind: Kind) -> Graph:
    if kind.runtime == "openvino":
        from pipeline.model.vino import OpenVinoGraph

        return OpenVinoGraph(graph, setup, kind.precision)
    from pipeline.model.session import OnnxGraph

    return OnnxGraph(graph, setup, cuda=kind.runtime == "cuda")
