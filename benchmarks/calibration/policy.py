"""Simulated networks of known miscalibration: what each way to calibrate loses, how often intervals hold."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from data_schemas.card import Output
from pipeline.evaluate import calibration, statistics
from pipeline.evaluate.calibration import fit_calibration, fitted
from pipeline.evaluate.reliability import calibration_error
from pipeline.model import decision

Floats = NDArray[np.float64]

OUTPUT = Output(label="x", classes=("0", "1"), columns=(0,), positive_classes=(1,))
WAYS = ("none", "temperature", "bias", "one standard error", "hilum")
NEW = 20_000


def policies(
    sizes: tuple[int, ...], spread: float, rounds: int, seed: int = 0
) -> list[tuple[object, ...]]:
    """Return rows: calibration images, then each way's loss on new images above the true one, x 1000.

    A network's log-odds are right but for a factor (log T normal, mean 0.3, s.d. 0.4) and a shift
    (s.d. ``spread``). ``one standard error``: the simplest way within one standard error of the best
    in cross-validation. ``hilum``: the better one of temperature and bias, as ``fit_calibration``.
    """
    rows = []
    for size in sizes:
        generator = np.random.default_rng((seed, size))
        lost: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            factor = np.exp(generator.normal(0.3, 0.4))
            moved = generator.normal(0, spread)
            few, labels = _draw(generator, size)
            new, truth = _draw(generator, NEW)
            floor = statistics.log_loss(truth, expit(new))
            own, later = (few - moved) * factor, (new - moved) * factor
            for way in WAYS:
                output = _calibrated(way, own, labels)
                found = decision.of_positive(output, later[:, None])
                lost[way].append(statistics.log_loss(truth, found) - floor)
        rows.append((spread, size, *(f"{1000 * np.mean(lost[way]):.1f}" for way in WAYS)))
    return rows


def coverage(sizes: tuple[int, ...], rounds: int, seed: int = 0) -> list[tuple[object, ...]]:
    """Return rows: network, images, true error, mean measured error, share of intervals that hold it."""
    rows = []
    for name, bent, moved in (
        ("true", 1.0, 0.0),
        ("too sure by 1.7", 0.6, 0.0),
        ("shifted by 0.7", 1.0, 0.7),
    ):
        generator = np.random.default_rng(seed)
        many = generator.normal(size=400_000) * 2.5
        true = float(np.abs(expit(many) - expit(many * bent + moved)).mean())
        for size in sizes:
            held, errors = 0, []
            for _ in range(rounds):
                odds = generator.normal(size=size) * 2.5
                labels = (generator.random(size) < expit(odds * bent + moved)).astype(np.int64)
                found = calibration_error(labels, expit(odds), np.arange(size).astype(np.str_))
                errors.append(found.value or 0.0)
                held += (found.low or 0.0) <= true <= (found.high or 1.0)
            mean = f"{np.mean(errors):.3f}"
            rows.append((name, size, f"{true:.3f}", mean, f"{held / rounds:.2f}"))
    return rows


def _draw(generator: np.random.Generator, count: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return true log-odds and labels of two normal classes, four in ten positive."""
    labels = (generator.random(count) < 0.4).astype(np.int64)
    scores = generator.normal(size=count) + 2.6 * (labels - 0.5)
    return 2.6 * scores + float(logit(0.4)), labels


def _calibrated(way: str, logits: Floats, labels: NDArray[np.int64]) -> Output:
    column = logits[:, None]
    if way in ("none", "temperature", "bias"):
        temperature, shift = fitted(column, labels[:, None].astype(np.float64), OUTPUT, way)  # type: ignore[arg-type]
        return OUTPUT.model_copy(update={"temperature": temperature, "shift": shift})
    if way == "hilum":
        return fit_calibration(column, labels, OUTPUT).applied(OUTPUT)
    return _calibrated(_simplest(column, labels), logits, labels)


def _simplest(column: Floats, labels: NDArray[np.int64]) -> str:
    ways: list[calibration.Method] = ["none", "temperature", "bias"]
    names = np.arange(labels.size).astype(np.str_)
    losses, _ = calibration.cross_validated(column, labels, OUTPUT, ways, names)
    best = min(ways, key=lambda way: float(losses[way].mean()))
    for way in ways:
        extra = losses[way] - losses[best]
        if extra.mean() <= extra.std(ddof=1) / np.sqrt(extra.size):
            return way
    return best
