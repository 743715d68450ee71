"""What a search leaves: plan.yaml of the best trial with reasons, a table, importance and history."""

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data_schemas import settings
from data_schemas.plan import Plan
from pipeline.tracking.runs import TrackedRun
from pipeline.train.figures import BLUE, GREY, ORANGE
from pipeline.train.plan.write import as_yaml
from pipeline.train.search_space import SPACE, Trial, space_table
from pipeline.train.task import Task

if TYPE_CHECKING:
    import optuna

_REASONS_AT = 40
LEAST = 8
"""Whole trials from which on something is said about importance."""


def log_start(run: TrackedRun, task: Task) -> None:
    """Log what the search starts from."""
    run.log_params(settings.flat(task.plan.model_dump(mode="json")))
    run.log_text(settings.to_yaml(task.plan), "config/plan.yaml")
    run.log_text(space_table() + "\n", "search/space.md")
    run.log_json(task.info.model_dump(mode="json"), "config/dataset.json")
    for split in ("train", "tune"):
        run.log_dataset(task.info, split, len(task.rows[split]))


def log_end(
    run: TrackedRun, task: Task, study: "optuna.Study", trials: Sequence[Trial], text: str
) -> None:
    """Log the best plan, the table of trials, the figure and the note."""
    best = best_of(trials)
    run.log_metrics({"search/best_auc": best.score, "search/trials": float(len(trials))}, step=0)
    run.log_metrics({"time/total_s": sum(one.seconds for one in trials)}, step=0)
    run.flush()
    run.log_text(text, "search/plan.yaml")
    run.log_text(_csv(trials), "search/trials.csv")
    weights = importances(study)
    run.log_figure(figure(trials, weights), "figures/search.png")
    run.set_note(_note(task, trials, weights))


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the highest tune AUC among those that came to their end."""
    ended = [one for one in trials if one.state == "complete"]
    return max(ended, key=lambda one: (one.score, -one.number))


def importances(study: "optuna.Study") -> dict[str, float]:
    """Return how much of the score's variation each setting explains, the most first (PED-ANOVA).

    Watanabe et al. 2023. Nothing with fewer than :data:`LEAST` whole trials: it would be noise. Together they are 1.
    """
    import optuna

    whole = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len(whole) < LEAST or len({trial.value for trial in whole}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def plan_text(found: Plan, base: Plan, best: Trial, trials: Sequence[Trial]) -> str:
    """Return plan.yaml of the best trial; a changed line says what it was and which trial chose it."""
    said = f"trial {best.number} of {len(trials)}: tune AUC {best.score:.4f}"
    own = next((one for one in trials if not one.settings and one.state == "complete"), None)
    beside = f"; the plan itself {own.score:.4f}" if own is not None and own is not best else ""
    lines = [
        "# Written by `hilum search`, chosen on the tune split, never on calibration or test:",
        f"# {said}{beside}.",
        "# The best of many trials flatters; `hilum evaluate` on the sealed test split is honest.",
        "",
    ]
    before = settings.flat(base.model_dump(mode="json"))
    tree = found.model_dump(mode="json")
    for key, value in tree.items():
        if not isinstance(value, dict):
            lines.append(_line(key, value, before[key], said))
            continue
        lines.append(f"{key}:")
        lines += [
            f"  {_line(name, inner, before[f'{key}.{name}'], said)}"
            for name, inner in value.items()
        ]
    return "\n".join(lines) + "\n"


def figure(trials: Sequence[Trial], weights: dict[str, float]) -> Figure:
    """Draw tune AUC by trial, and what the settings have to do with it."""
    drawn = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(drawn)
    history, bars = drawn.subplots(1, 2)
    marks = {"complete": ("o", BLUE), "pruned": ("x", GREY), "failed": ("v", ORANGE)}
    for state, (marker, colour) in marks.items():
        own = [one for one in trials if one.state == state and math.isfinite(one.score)]
        if own:
            numbers, scores = [one.number for one in own], [one.score for one in own]
            history.plot(numbers, scores, marker, color=colour, linestyle="", label=state)
    so_far, best = [], -math.inf
    for one in trials:
        best = max(best, one.score) if one.state == "complete" else best
        so_far.append(best if math.isfinite(best) else math.nan)
    history.step([one.number for one in trials], so_far, where="post", color=BLUE, alpha=0.5, label="best so far")  # fmt: skip
    history.set(title="trials", xlabel="trial", ylabel="tune AUC")
    history.legend(fontsize=8)
    history.grid(alpha=0.3)
    names = list(reversed(weights))
    bars.barh(names, [weights[name] for name in names], color=BLUE)
    bars.set(title="importance (PED-ANOVA, together 1)", xlim=(0, 1))
    if not names:
        bars.text(0.5, 0.5, "too few whole trials to say", ha="center", transform=bars.transAxes)
        bars.set(yticks=[])
    return drawn


def _line(name: str, value: Any, before: Any, said: str) -> str:
    text = f"{name}: {as_yaml(value)}"
    if value == before:
        return text
    return f"{text.ljust(_REASONS_AT)}  # {said}; was {as_yaml(before)}"


def _note(task: Task, trials: Sequence[Trial], weights: dict[str, float]) -> str:
    best = best_of(trials)
    changes = ", ".join(f"`{key}` {as_yaml(value)}" for key, value in best.settings.items())
    counts = ", ".join(
        f"{sum(one.state == state for one in trials)} {state}"
        for state in ("complete", "pruned", "failed")
    )
    heavy = ", ".join(f"{name} {value:.2f}" for name, value in weights.items())
    return f"""## {task.head.primary}: search around a plan on {task.info.name}

**Best: trial {best.number} of {len(trials)}**, tune AUC {best.score:.4f}. \
{"It is the plan as it was." if not changes else f"It changes {changes}."} ({counts})

The tune split ({len(task.rows["tune"])} images) chose it, and a choice among many flatters. \
`search/plan.yaml` is the plan to train with; the honest figure is the sealed test split's.

**Importance.** {heavy or "too few whole trials to say"}

{space_table()}
"""


def _csv(trials: Sequence[Trial]) -> str:
    text = io.StringIO()
    names = [one.key for one in SPACE]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "tune_auc", "seconds", *names])
    for one in trials:
        values = [one.values.get(name, "") for name in names]
        writer.writerow([one.number, one.state, one.score, round(one.seconds, 1), *values])
    return text.getvalue()
