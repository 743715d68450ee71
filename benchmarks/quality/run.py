"""The quality gate on real photographs, degraded in steps: what it refuses, and how well it separates.

    python benchmarks/quality/run.py                          a sixth of the photographs: minutes
    python benchmarks/quality/run.py --every 1 --picture curve.svg
    python benchmarks/quality/run.py --fit                    learns the gate anew, prints its YAML

Reads ../shared/data/fundus_rahim. Patients are halved: the gate is learned and its threshold chosen
on one half, every figure printed is of the other. One thread.
"""

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import minimize

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from degrade import DEGRADATIONS, degrade  # noqa: E402
from timing import table  # noqa: E402

from data_schemas import settings  # noqa: E402
from data_schemas.contract import Accept, Contract, Gate, GateTerm, Quality  # noqa: E402
from data_schemas.errors import ImageError  # noqa: E402
from pipeline.evaluate.statistics import auc, wilson  # noqa: E402
from pipeline.imaging import quality  # noqa: E402
from pipeline.imaging.prepare import prepare  # noqa: E402
from pipeline.imaging.read import from_array  # noqa: E402

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "fundus_rahim"
CONTRACT = ROOT / "configs" / "contracts" / "fundus.yaml"
LOST = 0.02
"""Share of the calibration half's originals that the gate may refuse."""
SIGNS = {"sharpness": 1, "focus": 1, "texture": 1, "direction": 1, "contrast": 1, "dark": -1, "burnt": -1, "shade": -1, "field": 1}  # fmt: skip
"""Features of the gate, and whether more of it is better: no weight may have the other sign."""
_SHRINK = 0.02
_NO_FIELD = -99.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """One picture: what was done to it, and what was measured; no features if no field was found."""

    kind: str
    step: int
    features: dict[str, float] | None


def contract() -> Contract:
    """Return the fundus contract as it is, open to arrays."""
    resolved = settings.resolve(Contract, [settings.from_file(CONTRACT)])
    return resolved.model_copy(update={"accept": Accept()})


def photographs(half: int, every: int) -> list[Path]:
    """Return the photographs of every second patient: half 0 to learn from, half 1 to report."""
    with (PHOTOGRAPHS / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    patients = sorted({row["patient"] for row in rows})
    mine = set(patients[half::2])
    return [PHOTOGRAPHS / row["image"] for row in rows if row["patient"] in mine][::every]


def look(files: list[Path], recipe: Contract, *, degraded: bool = True) -> list[Seen]:
    """Measure photographs as they are, and in every step of every degradation."""
    found = []
    for number, file in enumerate(files):
        picture = np.asarray(Image.open(file).convert("RGB"))
        found.append(Seen("original", 0, _features(picture, recipe)))
        for kind, (_, steps, _) in DEGRADATIONS.items() if degraded else ():
            for k, step in enumerate(steps, 1):
                worse = degrade(picture, kind, step, seed=number)
                found.append(Seen(kind, k, _features(worse, recipe)))
        print(f"\r{number + 1}/{len(files)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return found


def kept(
    options: argparse.Namespace, name: str, half: int, recipe: Contract, *, degraded: bool = True
) -> list[Seen]:
    """Measure a half's photographs, or read what was measured before from the folder ``--keep``.

    Originals cost little: all of them, whatever ``--every`` says.
    """
    file = None if options.keep is None else options.keep / f"{name}.json"
    if file is not None and file.is_file():
        return [Seen(*entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    seen = look(photographs(half, options.every if degraded else 1), recipe, degraded=degraded)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        entries = [(s.kind, s.step, s.features) for s in seen]
        file.write_text(json.dumps(entries), encoding="utf-8")
    return seen


def _features(picture: NDArray[np.uint8], recipe: Contract) -> dict[str, float] | None:
    try:
        return prepare(from_array(picture), recipe).quality.features
    except ImageError:
        return None


def learn(seen: list[Seen], originals: list[Seen]) -> Gate:
    """Fit a logistic gate: originals and first steps against the two last steps of everything.

    Weights are bound to the sign that makes sense and shrunk a little (ridge); kinds count alike.
    The bias is then moved so that :data:`LOST` of the originals fall below 0.
    """
    names, signs = list(SIGNS), np.array(list(SIGNS.values()))
    used = [s for s in seen if s.features is not None and (s.step <= 1 or s.step >= 4)]
    values = np.array([[s.features[name] for name in names] for s in used])  # type: ignore[index]
    good = np.array([s.step <= 1 for s in used])
    weight = np.array([len(DEGRADATIONS) if s.kind == "original" else 1.0 for s in used])
    weight = np.where(good, weight / weight[good].sum(), weight / weight[~good].sum())
    plain = np.array([[s.features[name] for name in names] for s in originals if s.features])
    typical, spread = np.median(plain, axis=0), values.std(axis=0)
    # as in quality.gradable: what is better than typical adds nothing
    scaled = signs * np.minimum(signs * (values - typical), 0.0) / spread
    target = np.where(good, 1.0, -1.0)

    def loss(at: Floats) -> tuple[float, Floats]:
        odds = target * (scaled @ at[1:] + at[0])
        slope = -target * weight / (1 + np.exp(np.clip(odds, -50, 50)))
        value = float((weight * np.logaddexp(0, -odds)).sum() + _SHRINK / 2 * (at[1:] ** 2).sum())
        return value, np.concatenate(([slope.sum()], slope @ scaled + _SHRINK * at[1:]))

    bounds = [(None, None)] + [(0, None) if SIGNS[n] > 0 else (None, 0) for n in names]
    best = minimize(loss, np.zeros(len(names) + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    terms = {
        name: GateTerm(weight=round(float(w / s), 3), typical=round(float(t), 3))
        for name, w, s, t in zip(names, best[1:], spread, typical, strict=True)
        if abs(w) > 1e-3
    }
    unmoved = Gate(bias=0.0, terms=terms)
    odds = [quality.gradable(s.features, unmoved) for s in originals if s.features]
    return Gate(bias=round(-float(np.quantile(odds, LOST)), 3), terms=terms)


def odds_of(seen: list[Seen], gate: Gate) -> Floats:
    """Return the log-odds of every picture; none where no field was found."""
    return np.array(
        [_NO_FIELD if s.features is None else quality.gradable(s.features, gate) for s in seen]
    )


def refused_of(seen: list[Seen], limits: Quality) -> NDArray[np.bool_]:
    """Return which pictures the whole contract refuses: limits, gate, no field."""
    return np.array(
        [s.features is None or not quality.judge(s.features, limits).sufficient for s in seen]
    )


def report(seen: list[Seen], limits: Quality) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """Return the table, and share refused and AUC by kind and step."""
    odds, refused = odds_of(seen, limits.gate), refused_of(seen, limits)
    kinds, steps = np.array([s.kind for s in seen]), np.array([s.step for s in seen])
    plain = kinds == "original"
    curves: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for kind, (unit, values, _) in DEGRADATIONS.items():
        curves[kind] = []
        for k in range(1, len(values) + 1):
            here = (kinds == kind) & (steps == k)
            curves[kind].append((float(refused[here].mean()), _auc(odds[plain], odds[here])))
        cells = [f"{value:g}: {100 * share:.0f} %, {area:.3f}" for value, (share, area) in zip(values, curves[kind], strict=True)]  # fmt: skip
        rows.append((f"{kind} ({unit})", *cells))
    worst = steps == 5
    pooled = _auc(odds[plain], odds[worst])
    kept = int((~refused[plain]).sum())
    low, high = wilson(kept, int(plain.sum()))
    text = table(("degradation", "step 1", "step 2", "step 3", "step 4", "step 5"), rows)
    text += (
        f"\n\nEach cell: the step, share refused, AUC against the originals. "
        f"Kept: {kept} of {plain.sum()} originals ({100 * kept / plain.sum():.1f} %, "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f}). "
        f"All strongest steps together: AUC {pooled:.4f}, {100 * refused[worst].mean():.1f} % refused."
    )
    return text, curves


def _auc(better: Floats, worse: Floats) -> float:
    truth = np.concatenate((np.ones(len(better)), np.zeros(len(worse)))).astype(int)
    return float(auc(truth, np.concatenate((better, worse))))


def draw(curves: dict[str, list[tuple[float, float]]], kept: float, file: Path) -> None:
    """Draw share refused and AUC over the steps."""
    import matplotlib as mpl

    mpl.use("svg" if file.suffix == ".svg" else "agg")
    mpl.rcParams["svg.hashsalt"] = "hilum"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    marks = "osD^vPX"
    for (kind, points), mark in zip(curves.items(), marks, strict=True):
        shares = [100 * (1 - kept)] + [100 * share for share, _ in points]
        left.plot(range(6), shares, marker=mark, ms=5, label=kind)
        right.plot(range(1, 6), [area for _, area in points], marker=mark, ms=5, label=kind)
    left.set(xlabel="step (0: original)", ylabel="refused, %", title="Share refused", ylim=(-3, 103))  # fmt: skip
    right.axhline(0.95, color="grey", lw=1, ls="--")
    right.set(xlabel="step", ylabel="AUC", title="Original against degraded", xticks=range(1, 6))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--every", type=int, default=6, help="use every N-th photograph")
    parser.add_argument("--fit", action="store_true", help="learn the gate on the first half")
    parser.add_argument(
        "--keep", type=Path, help="folder to keep what was measured in, and read it"
    )
    parser.add_argument("--picture", type=Path, help="draw the curves into this SVG or PNG")
    options = parser.parse_args()
    if not PHOTOGRAPHS.is_dir():
        print("skipped: needs ../shared/data/fundus_rahim", file=sys.stderr)
        return
    recipe = contract()
    limits = recipe.quality
    bare = limits.model_copy(update={"gate": None})
    recipe = recipe.model_copy(update={"quality": bare})
    if options.fit:
        first = kept(options, "learn", 0, recipe)
        gate = learn(first, kept(options, "learn-originals", 0, recipe, degraded=False))
        limits = limits.model_copy(update={"gate": gate})
        print(yaml.safe_dump({"gate": gate.model_dump()}, sort_keys=False))
    if limits.gate is None:
        sys.exit("the contract has no gate: --fit learns one")
    seen = [s for s in kept(options, "report", 1, recipe) if s.kind != "original"]
    seen += kept(options, "report-originals", 1, recipe, degraded=False)
    text, curves = report(seen, limits)
    print(text)
    if options.picture:
        plain = [s for s in seen if s.kind == "original"]
        draw(curves, 1 - float(refused_of(plain, limits).mean()), options.picture)


if __name__ == "__main__":
    main()
