"""Train the report writer, tracked in MLflow.

The writer learns from simulated reports how sentences are best chosen: one style, one hand, lists.
What a draft states never depends on it. Half a minute on two cores.

example:
  hilum train-report --out writer
  hilum train-report --out writer --vocabulary my-words.yaml --set epochs=10 --set seed=1
"""

import argparse
from pathlib import Path

from services.cli.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="WRITER",
        help="folder of the writer; new or empty",
    )
    parser.add_argument(
        "--vocabulary", default="fundus", metavar="NAME|FILE", help="what may be said"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="KEY=VALUE",
        help="a setting of the plan, such as epochs=10; may be repeated",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    from data_schemas import settings
    from data_schemas.report import Vocabulary, WriterPlan
    from services.cli.settings import resolve, tracking_uri

    vocabulary = resolve(Vocabulary, "reports", [options.vocabulary], [])
    plan = settings.resolve(WriterPlan, [settings.from_assignments(options.assignments)])

    from pipeline.report.learn import learn

    card = learn(vocabulary, plan, options.out, tracking_uri(), console.progress)
    figures = card.figures
    lines = [
        f"writer {options.out}: {card.parameters:,} weights, vocabulary {card.vocabulary_name}",
        "                                 trained  random weights",
    ]
    rows = {
        "drafts in one style": "one_style",
        "runs gathered as authors do": "gathers",
        "author's sentence foreseen": "next_sentence",
    }
    for title, name in rows.items():
        trained, untrained = figures[f"trained/{name}"], figures[f"untrained/{name}"]
        lines.append(f"  {title:<29} {trained:7.0%}   {untrained:7.0%}")
    lines.append(f"MLflow run {card.run_id}")
    lines.append(f"next: hilum report SCORE.json --writer {options.out}")
    console.result("\n".join(lines), {"out": str(options.out), **card.model_dump(mode="json")})
    return 0
