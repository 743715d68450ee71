"""What a model's own images look like to it: statistics for "outside what it was made for", and for drift.

Written at the end of training, kept in the package as ``reference.npz``: means, axes, histograms. No
pixels, nothing of a single patient.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.errors import PackageError
from data_schemas.score import ScopeAnswer

Floats = NDArray[np.floating[Any]]

VERSION = 1
AXES = 64
"""Principal axes of the training embeddings kept at most; what lies beside them is measured."""

WATCHED = 16
"""Leading axes whose means are watched for drift."""

FALSE_ALARMS = 0.01
"""Share of held-out images that may be called outside, where there are enough of them to say so."""

USUAL = 0.95
"""Each distance is divided by what this share of the held-out images stays within."""

BINS, IMAGES_A_BIN = 10, 20
"""A histogram has at most so many bins, and so many images in each: else chance would look like drift."""

FEATURES = ("brightness", "contrast", "detail")
"""Of the array that the network sees, watched for drift beside the contract's own quality features."""

REASONS = (
    "the network has seen nothing like it",
    "its brightness, contrast, colour or detail are unlike those of the model's own images",
)
"""Of the embedding, and of the look."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of a number among the held-out images, in bins of about equal shares."""

    edges: NDArray[np.float64]  # [bins - 1], inner ones, rising
    shares: NDArray[np.float64]  # [bins], sum 1

    def bin_of(self, value: float) -> int:
        """Return the index of the bin that holds ``value``."""
        return int(np.searchsorted(self.edges, value, side="right"))


@dataclass(frozen=True, slots=True)
class Shape:
    """Where the training images lie: as embeddings, and as pictures."""

    mean: NDArray[np.float64]  # [D], of the embeddings
    axes: NDArray[np.float64]  # [k, D], orthonormal, the principal ones
    look: NDArray[np.float64]  # [2 C + 2], mean of :func:`looks`
    precision: NDArray[np.float64]  # [2 C + 2, 2 C + 2], inverse of their covariance

    def distances(self, embeddings: Floats, looks_: Floats) -> NDArray[np.float64]:
        """Return two distances [N, 2] of images with embeddings [N, D] and looks [N, 2 C + 2].

        Of the embedding: the length of what the training images' principal axes can't express
        (residual, as in ViM: Wang et al. 2022). Of the look: Mahalanobis' distance.
        """
        away = np.asarray(embeddings, np.float64) - self.mean
        # no BLAS: its threads would stand in the way of other images' in a service
        along = np.einsum("nd,kd->nk", away, self.axes)
        beside = (away**2).sum(axis=1) - (along**2).sum(axis=1)
        looked = np.asarray(looks_, np.float64) - self.look
        squares = np.einsum("ij,jk,ik->i", looked, self.precision, looked)
        return np.asarray(np.sqrt(np.maximum(np.stack([beside, squares], axis=1), 0)))


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a model's images lie, and how its answers are spread.

    The shape is that of the training images, the many; everything that is compared with a number
    comes from held-out images: on the training images the network is surer than elsewhere.
    """

    shape: Shape
    usual: NDArray[np.float64]  # [2], what each distance is divided by
    limit: float
    """A larger distance is outside."""
    rate: float
    """At most this share of further images like the held-out ones is expected beyond the limit."""
    images: int
    """Training images behind the shape."""
    held_out: int
    split: str
    """Where the held-out images are from."""
    centre: NDArray[np.float64]  # [w], mean of the held-out images along the watched axes
    scale: NDArray[np.float64]  # [w], their standard deviation, > 0
    histograms: Mapping[str, Histogram]
    """``distance``, ``probability/FINDING``, ``quality/FEATURE`` -> how it is spread."""

    def see(self, embedding: Floats, pixels: NDArray[np.uint8]) -> "Sight":
        """Return how an image compares.

        Parameters
        ----------
        embedding
            [D].
        pixels
            uint8 [S, S, C], as the network sees it.
        """
        look = looks(pixels[None])
        found = self.shape.distances(embedding[None], look)[0] / self.usual
        # six digits: the last ones differ between processors, and receipts are compared bit for bit
        distance, limit = (float(f"{value:.6g}") for value in (found.max(), self.limit))
        inside = distance <= limit
        reasons = () if inside else (REASONS[int(found.argmax())],)
        watched = self.shape.axes[: len(self.centre)]
        along = np.einsum("kd,d->k", watched, embedding - self.shape.mean)
        return Sight(
            scope=ScopeAnswer(inside=inside, reasons=reasons, distance=distance, limit=limit),
            features={name: float(value) for name, value in features(look[0]).items()},
            along=(along - self.centre) / self.scale,
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """One image against the reference."""

    scope: ScopeAnswer
    features: Mapping[str, float]
    """:data:`FEATURES`."""
    along: NDArray[np.float64]
    """[w], along the watched axes, in the held-out images' standard deviations."""


def looks(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what images [N, S, S, C] look like [N, 2 C + 2], in grey levels.

    Mean and standard deviation of each channel; mean step between neighbours along columns and
    along rows, of the middle channel.
    """
    return np.array([_look(np.ascontiguousarray(image)) for image in images], np.float64)


def _look(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    height, width, channels = image.shape
    # by counting, which is exact; Pillow counts twice as fast as NumPy
    counted = Image.fromarray(image[..., 0] if channels == 1 else image).histogram()
    shares = np.array(counted, np.float64).reshape(channels, 256) / (height * width)
    levels = np.arange(256.0)
    means = (shares * levels).sum(axis=1)
    variances = (shares * (levels - means[:, None]) ** 2).sum(axis=1)
    middle = np.ascontiguousarray(image[..., channels // 2])
    steps = (_mean_step(middle[1:], middle[:-1]), _mean_step(middle[:, 1:], middle[:, :-1]))
    return np.concatenate([means, np.sqrt(variances), steps])


def _mean_step(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    # in eight bits, sixteen pixels at a time: a difference of unsigned numbers has no sign to lose
    apart = np.maximum(one, other) - np.minimum(one, other)
    return float(apart.sum(dtype=np.int64) / apart.size)


def features(look: Floats) -> dict[str, Any]:
    """Return :data:`FEATURES` of looks [..., 2 C + 2], each [...]."""
    channels = (look.shape[-1] - 2) // 2
    parts = (look[..., :channels], look[..., channels:-2], look[..., -2:])
    return {name: part.mean(axis=-1) for name, part in zip(FEATURES, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network and its contract made of some images."""

    embeddings: Floats  # [N, D]
    looks: NDArray[np.float64]  # [N, 2 C + 2]


def make_reference(
    training: Seen, held_out: Seen, split: str, probabilities: Mapping[str, Floats]
) -> Reference:
    """Return the reference of a model.

    Parameters
    ----------
    training, held_out
        N >= 2 and M >= 1 images.
    split
        The held-out images' split.
    probabilities
        Finding -> its calibrated probability of each held-out image [M].
    """
    shape = shape_of(training)
    apart = shape.distances(held_out.embeddings, held_out.looks)
    # of one picture all over, nothing may be divided by nought
    usual = np.maximum(np.quantile(apart, USUAL, axis=0), 1e-9)
    distance = (apart / usual).max(axis=1)
    limit, rate = limit_of(distance)
    along = (np.asarray(held_out.embeddings, np.float64) - shape.mean) @ shape.axes[:WATCHED].T
    spread = along.std(axis=0)
    values = {
        "distance": distance,
        **{f"probability/{name}": found for name, found in probabilities.items()},
        **{f"quality/{name}": found for name, found in features(held_out.looks).items()},
    }
    return Reference(
        shape=shape,
        usual=usual,
        limit=limit,
        rate=rate,
        images=len(training.looks),
        held_out=len(held_out.looks),
        split=split,
        centre=along.mean(axis=0),
        scale=np.where(spread > 0, spread, 1.0),
        histograms={name: _histogram(np.asarray(found)) for name, found in values.items()},
    )


def shape_of(training: Seen) -> Shape:
    """Return where N >= 2 training images lie."""
    values = np.asarray(training.embeddings, np.float64)
    count, width = values.shape
    mean = values.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(values, rowvar=False).reshape(width, width))
    # with few images the smaller axes are chance
    kept = max(1, min(AXES, width // 2, count // 4))
    look, spread = training.looks.mean(axis=0), np.cov(training.looks, rowvar=False)
    # a hundredth of a grey level: what never varied must not make any difference infinite
    ridge = 1e-2 * np.eye(len(look))
    # float32 is what is kept: the limit must be found with what will be compared with it
    axes = vectors[:, ::-1].T[:kept].astype(np.float32)
    return Shape(
        mean=mean.astype(np.float32).astype(np.float64),
        axes=axes.astype(np.float64),
        look=look,
        precision=np.linalg.inv(spread + ridge).astype(np.float64),
    )


def limit_of(held_out: Floats) -> tuple[float, float]:
    """Return the limit, and the share of further images that is expected beyond it at most.

    The k-th smallest of M held-out distances, k = ceil((M + 1) (1 - rate)): a new image like them is
    beyond it with a probability of at most the rate, whatever the distribution (split conformal
    prediction, Vovk 2005). Of fewer than 99 images the largest is taken, and the rate is 1 / (M + 1).
    """
    ordered = np.sort(np.asarray(held_out, np.float64))
    count = len(ordered)
    rate = max(FALSE_ALARMS, 1 / (count + 1))
    # a rounding error must not ask for one image more than there are
    place = min(count, int(np.ceil((count + 1) * (1 - rate) - 1e-9)))
    return float(ordered[place - 1]), rate


def _histogram(values: NDArray[np.float64]) -> Histogram:
    bins = int(np.clip(len(values) // IMAGES_A_BIN, 2, BINS))
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Histogram(edges.astype(np.float64), counts / len(values))


def pack_reference(found: Reference) -> bytes:
    """Return the bytes of ``reference.npz``; same reference, same bytes."""
    shape = found.shape
    arrays: dict[str, Any] = {
        "schema_version": np.int64(VERSION),
        "numbers": np.array([found.limit, found.rate]),
        "counts": np.array([found.images, found.held_out]),
        "split": np.array(found.split),
        "mean": shape.mean.astype(np.float32),
        "axes": shape.axes.astype(np.float32),
        "look": shape.look,
        "precision": shape.precision,
        "usual": found.usual,
        "centre": found.centre,
        "scale": found.scale,
    }
    for name, histogram in sorted(found.histograms.items()):
        arrays[f"{_EDGES}{name}"] = histogram.edges
        arrays[f"{_SHARES}{name}"] = histogram.shares
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack_reference(data: bytes, where: str) -> Reference:
    """Read what :func:`pack_reference` wrote.

    Raises
    ------
    PackageError
        If it isn't such a file, or of a version that isn't known.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if int(arrays["schema_version"]) != VERSION:
                raise PackageError(
                    f"is of version {int(arrays['schema_version'])}, {VERSION} is known",
                    where=where,
                    mend="use the hilum that made the package, or a newer one",
                )
            limit, rate = (float(value) for value in arrays["numbers"])
            images, held_out = (int(value) for value in arrays["counts"])
            names = [name.removeprefix(_EDGES) for name in arrays if name.startswith(_EDGES)]
            return Reference(
                shape=Shape(
                    mean=arrays["mean"].astype(np.float64),
                    axes=arrays["axes"].astype(np.float64),
                    look=arrays["look"],
                    precision=arrays["precision"],
                ),
                usual=arrays["usual"],
                limit=limit,
                rate=rate,
                images=images,
                held_out=held_out,
                split=str(arrays["split"]),
                centre=arrays["centre"],
                scale=arrays["scale"],
                histograms={
                    name: Histogram(arrays[f"{_EDGES}{name}"], arrays[f"{_SHARES}{name}"])
                    for name in names
                },
            )
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise PackageError("can't be read as a reference", where=where) from error


_EDGES, _SHARES = "edges/", "shares/"
