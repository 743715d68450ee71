"""The package's graph in ONNX Runtime: uint8 images in; logits, evidence and embeddings out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import HilumError, PackageError, UsageError
from pipeline.model.package import GRAPH, Package, verification
from pipeline.model.session import VERSION, open_session

OUTPUTS = ("logits", "evidence", "embedding")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the graph says about N images."""

    logits: NDArray[np.float32]  # [N, K]
    evidence: NDArray[np.float32]  # [N, K, h, w]; mean over h and w, plus bias, is the logit
    embedding: NDArray[np.float32]  # [N, D]


class Runtime:
    """A loaded graph. Safe to use from several threads at once.

    Parameters
    ----------
    package
        An opened package.
    threads
        Threads of one run. Several runs side by side with one thread each use a CPU better than
        one run with several threads.
    cuda
        Run on the first CUDA device, in fp32.

    Raises
    ------
    PackageError
        If the graph can't be loaded, or its inputs and outputs aren't those of the card.
    UsageError
        If CUDA is asked for and this ONNX Runtime has none.
    """

    def __init__(self, package: Package, threads: int = 1, *, cuda: bool = False) -> None:
        try:
            self._session = open_session(package.read(GRAPH), threads=threads, cuda=cuda)
        except HilumError:
            raise
        except Exception as error:  # onnxruntime's own exceptions share no base class
            where = package.folder / GRAPH
            raise PackageError(f"ONNX Runtime can't load it: {error}", where=where) from error
        self._shape = (package.card.size, package.card.size, package.card.channels)
        self._check_graph(package)
        self.bias = verification(package).bias
        device = " cuda" if cuda else ""
        self.identity = f"onnxruntime {VERSION} fp32{device}"

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
        found = self._session.run(OUTPUTS, {"images": np.ascontiguousarray(images)})
        outputs = Outputs(*found)
        if not np.isfinite(outputs.logits).all():
            raise PackageError("the model answered a logit that is not a finite number")
        return outputs

    def _check_graph(self, package: Package) -> None:
        where = package.folder / GRAPH
        inputs = {node.name: node.type for node in self._session.get_inputs()}
        if inputs != {"images": "tensor(uint8)"}:
            raise PackageError(f"takes {inputs}, expected uint8 `images`", where=where)
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        if any(name not in outputs for name in OUTPUTS):
            raise PackageError(f"returns {sorted(outputs)}, expected {OUTPUTS}", where=where)
        columns = sum(len(output.columns) for output in package.card.outputs)
        if outputs["logits"][1] != columns:
            raise PackageError(
                f"returns {outputs['logits'][1]} logits, the card names {columns}", where=where
            )


def largest_difference(package: Package, runtime: Runtime) -> float:
    """Return the largest |logit here - logit at export| over the package's verification set."""
    stored = verification(package)
    return float(np.max(np.abs(runtime.run(stored.images).logits - stored.logits)))
