"""What `hilum search` changes in a plan, and within which bounds: one readable table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data_schemas.plan import Plan
from data_schemas.settings import flat

if TYPE_CHECKING:
    import optuna

STRENGTH = "augmentation (strength)"
AMOUNTS = (
    "rotation_deg",
    "zoom",
    "shift",
    "brightness",
    "contrast",
    "gamma",
    "tint",
    "erase",
    "noise",
)
"""What the strength of augmentation multiplies; flips say what a picture is, and stay."""
_MOST = {"rotation_deg": 180.0, "erase": 1.0, "gamma": 1.9}
_BELOW_ONE = 0.9


@dataclass(frozen=True, slots=True)
class Dimension:
    """One row: a setting of the plan, or a factor on it, and where a trial may put it."""

    key: str
    kind: Literal["factor", "log", "linear", "choice"]
    low: float = 0.0
    high: float = 0.0
    choices: tuple[float, ...] = ()
    why: str = ""


SPACE: tuple[Dimension, ...] = (
    Dimension("learning.rate", "factor", 0.2, 5.0, why="the setting that most depends on the data"),
    Dimension("learning.weight_decay", "log", 1e-3, 0.3, why="how tightly weights are held"),
    Dimension("learning.average", "choice", choices=(0.0, 0.9, 0.98, 0.995), why="length of the weights' mean"),
    Dimension("learning.label_smoothing", "linear", 0.0, 0.15, why="labels of pictures are seldom sure"),
    Dimension("learning.mixup", "choice", choices=(0.0, 0.1, 0.2, 0.4), why="blends: for few images"),
    Dimension("network.dropout", "linear", 0.0, 0.5, why="against learning by heart"),
    Dimension(STRENGTH, "linear", 0.0, 2.0, why="multiplies every amount of augmentation"),
)  # fmt: skip
"""Backbone, size and epochs aren't here: they follow from data and machine (`hilum plan`)."""

Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one trial."""

    number: int  # from 1, for a person
    state: str  # complete, pruned, failed
    score: float  # tune AUC; of a pruned one, the last it had
    settings: dict[str, Any]
    values: dict[str, float]
    seconds: float


def own_values(plan: Plan) -> Values | None:
    """Return the point of the space at which ``plan`` itself lies; ``None`` if it lies outside."""
    values: Values = {}
    settings = flat(plan.model_dump(mode="json"))
    for one in SPACE:
        value = 1.0 if one.kind == "factor" or one.key == STRENGTH else float(settings[one.key])
        inside = value in one.choices if one.kind == "choice" else one.low <= value <= one.high
        if not inside:
            return None
        values[one.key] = value
    return values


def suggest(trial: "optuna.Trial") -> Values:
    """Let the sampler choose a point."""
    values: Values = {}
    for one in SPACE:
        if one.kind == "choice":
            values[one.key] = float(trial.suggest_categorical(one.key, one.choices))
        else:
            log = one.kind in ("factor", "log")
            values[one.key] = trial.suggest_float(one.key, one.low, one.high, log=log)
    return values


def changed(plan: Plan, values: Mapping[str, float]) -> dict[str, Any]:
    """Return the settings (dotted) that ``values`` give to ``plan``, rounded to three digits."""
    settings = flat(plan.model_dump(mode="json"))
    found: dict[str, Any] = {}
    for one in SPACE:
        value = values[one.key]
        if one.key == STRENGTH:
            for name in AMOUNTS:
                key = f"augmentation.{name}"
                found[key] = min(_rounded(settings[key] * value), _MOST.get(name, _BELOW_ONE))
        elif one.kind == "factor":
            found[one.key] = _rounded(settings[one.key] * value)
        else:
            found[one.key] = _rounded(value)
    return {key: value for key, value in found.items() if value != settings[key]}


def with_settings(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """Return the plan with other values for dotted settings, checked."""
    tree = plan.model_dump(mode="json")
    for key, value in settings.items():
        part = tree
        *above, name = key.split(".")
        for word in above:
            part = part[word]
        part[name] = value
    return Plan.model_validate(tree)


def space_table() -> str:
    """Return the space as a Markdown table."""
    lines = ["| setting | a trial may take | why |", "| --- | --- | --- |"]
    for one in SPACE:
        if one.kind == "choice":
            range_ = ", ".join(f"{choice:g}" for choice in one.choices)
        else:
            unit = " times the plan's" if one.kind == "factor" or one.key == STRENGTH else ""
            log = ", by its logarithm" if one.kind in ("factor", "log") else ""
            range_ = f"{one.low:g} to {one.high:g}{unit}{log}"
        lines.append(f"| `{one.key}` | {range_} | {one.why} |")
    return "\n".join(lines)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
