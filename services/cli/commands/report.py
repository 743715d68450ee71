"""Write a draft report from a score.

The draft states what the score says, each finding once, and is read back against the score before it
is shown. With --writer a trained writer chooses among the sentences; without it they are fixed.
Nothing that comes out is signed: a named clinician has to read it.

example:
  curl -sf --data-binary @eye.dcm http://127.0.0.1:8080/v1/scores > score.json
  hilum report score.json --writer writer
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import UsageError
from services.cli.console import Console

if TYPE_CHECKING:
    from data_schemas.report import Vocabulary
    from data_schemas.score import Score
    from pipeline.report.write import Writer


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("score", type=Path, metavar="SCORE", help="a score as JSON; - reads stdin")
    parser.add_argument("--writer", type=Path, help="a folder that `hilum train-report` wrote")
    parser.add_argument(
        "--vocabulary",
        metavar="NAME|FILE",
        help="what may be said (default: the writer's own, else fundus)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there, not to stdout")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command."""
    from data_schemas.files import write_text
    from pipeline.report.render import to_text
    from pipeline.report.write import draft, open_writer

    score = _read_score(options.score)
    writer = None if options.writer is None else open_writer(options.writer)
    vocabulary = _find_vocabulary(options.vocabulary, writer)
    written = draft(score, vocabulary, writer)
    if writer is None:
        console.say("no --writer: the sentences are fixed")
    if written.fallback_reason:
        console.say(f"the writer was not used, the sentences are fixed: {written.fallback_reason}")
    as_json = written.model_dump_json(indent=2)
    text = as_json if options.format == "json" else to_text(written)
    if options.out is None:
        console.result(text, written.model_dump(mode="json"))
        return 0
    write_text(options.out, text + "\n")
    console.result(
        f"draft {written.digest()} written to {options.out}",
        {"draft_sha256": written.digest(), "source": written.source, "out": str(options.out)},
    )
    return 0


def _read_score(path: Path) -> "Score":
    from data_schemas.score import Score

    if str(path) != "-":
        return Score.read_json(path)
    try:
        tree = json.loads(sys.stdin.read())
    except ValueError as error:
        raise UsageError(f"is not JSON: {error}", where="stdin") from error
    return Score.from_tree(tree, where="stdin")


def _find_vocabulary(name: str | None, writer: "Writer | None") -> "Vocabulary":
    from data_schemas.report import Vocabulary
    from pipeline.report.language import check_language
    from services.cli.settings import resolve

    if name is None and writer is not None:
        return writer.vocabulary
    vocabulary = resolve(Vocabulary, "reports", [name or "fundus"], [])
    check_language(vocabulary)
    if writer is not None and vocabulary.digest() != writer.card.vocabulary_sha256:
        raise UsageError(
            f"the writer was trained on another vocabulary than `{name}`",
            where="--vocabulary",
            mend="leave --vocabulary out, or train a writer: hilum train-report --vocabulary ...",
        )
    return vocabulary
