"""What a cross-validation prints: one line a fold, and the figures of all folds with their intervals."""

from typing import TYPE_CHECKING, Any

from pipeline.tracking.page import page_of
from services.cli.tables import aligned

if TYPE_CHECKING:
    from data_schemas.dataset import DatasetInfo
    from pipeline.train.cross import CrossValidated


def folds_text(crossed: "CrossValidated", info: "DatasetInfo", uri: str) -> str:
    """Return the tables for a person."""
    from pipeline.evaluate.figures import with_interval
    from pipeline.evaluate.out_of_fold import fold_row

    rows = [fold_row(fold, info) for fold in crossed.folds]
    head = ("fold", *rows[0], "epoch", "s")
    lines = [
        (
            str(fold.number + 1),
            *(f"{value:.0f}" if "/" not in key else f"{value:.3f}" for key, value in row.items()),
            str(fold.best_epoch),
            f"{fold.seconds:.0f}",
        )
        for fold, row in zip(crossed.folds, rows, strict=True)
    ]
    pooled = [
        (key, with_interval(interval), interval.method)
        for key, interval in crossed.statistics.items()
    ]
    return f"""run {crossed.run_id}: {len(crossed.folds)} folds, {crossed.seconds:.0f} s of training

{aligned([head, *lines])}

all folds together, 95 % by patient:
{aligned(pooled)}

MLflow page:  {page_of(uri)}"""


def folds_tree(
    crossed: "CrossValidated", info: "DatasetInfo", uri: str, experiment: str
) -> dict[str, Any]:
    """Return the same as one JSON object."""
    from pipeline.evaluate.out_of_fold import fold_row
    from pipeline.evaluate.statistics import known

    return {
        "run_id": crossed.run_id,
        "experiment": experiment,
        "tracking_uri": uri,
        "folds": [
            {
                "fold": fold.number + 1,
                "run_id": fold.run_id,
                "best_epoch": fold.best_epoch,
                "seconds": round(fold.seconds, 1),
                **{key: known(value) for key, value in fold_row(fold, info).items()},
            }
            for fold in crossed.folds
        ],
        "pooled": {key: one.model_dump(mode="json") for key, one in crossed.statistics.items()},
        "notes": list(crossed.notes),
        "seconds": round(crossed.seconds, 1),
    }
