"""Pictures made small, block by block: what the leak doctor looks at."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Prepared arrays [n, S, S, C] of the images at these places."""


def binned(pictures: NDArray[np.uint8], side: int) -> Floats:
    """Return pictures [N, S, S, C] as means over at most ``side`` x ``side`` cells, float32."""
    side = min(side, pictures.shape[1])
    edges = np.rint(np.linspace(0, pictures.shape[1], side + 1)).astype(np.int64)
    starts, widths = edges[:-1], np.diff(edges).astype(np.float32)
    # summed as whole numbers: 255 * 4096 fits easily
    sums = np.add.reduceat(pictures, starts, axis=1, dtype=np.uint32)
    sums = np.add.reduceat(sums, starts, axis=2)
    cells = widths[:, None] * widths[None, :]
    return np.asarray(sums / cells[None, :, :, None], np.float32)
