"""The training images with the most similar embeddings: for a reviewer's own eyes, never logged."""

from typing import Any

import numpy as np

from data_schemas.errors import UsageError
from data_schemas.progress import Progress
from pipeline.ingest.store import Dataset
from pipeline.model.runtime import Runtime
from pipeline.train.look import pictures
from pipeline.train.look.pictures import number
from pipeline.train.look.subject import Seen, truths

SHOWN_SIDE = 128
"""px of a neighbour's picture."""


def nearest(
    dataset: Dataset, runtime: Runtime, seen: Seen, count: int, progress: Progress
) -> list[dict[str, Any]]:
    """Return the ``count`` training images nearest by cosine of the embedding, nearest first.

    The whole training split goes through the package's graph once.

    Raises
    ------
    UsageError
        If the training split is empty.
    """
    rows = dataset.indices("train")
    if not len(rows):
        raise UsageError("its train split is empty", where=dataset.folder)
    own = runtime.run(seen.pixels[None]).embedding[0].astype(np.float64)
    cosines = np.empty(len(rows))
    for place, row in enumerate(rows):
        found = runtime.run(dataset.copies(np.array([row]))).embedding[0].astype(np.float64)
        size = float(np.linalg.norm(own) * np.linalg.norm(found))
        cosines[place] = float(own @ found) / max(size, 1e-30)
        progress(place + 1, len(rows), "training images")
    order = np.argsort(-cosines, kind="stable")
    best = [k for k in order if rows[k] != seen.row][:count]
    return [
        {
            "row": int(rows[k]),
            "cosine": number(cosines[k]),
            "truth": truths(dataset, int(rows[k])),
            "png": _picture(dataset, int(rows[k])),
        }
        for k in best
    ]


def _picture(dataset: Dataset, row: int) -> str:
    pixels = dataset.copies(np.array([row]))[0]
    shown = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    return pictures.smaller_photograph(shown, SHOWN_SIDE)
