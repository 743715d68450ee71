"""Whether drafts say what their scores say: every demo photograph scored, drafted by `hilum report`, read back.

    make demo && python benchmarks/report/run.py [DEMO_FOLDER]

Two readers that share no code and no phrases with the writer (or with each other) read each text:
the product's own and the one of the tests. Counted: findings that a text states and the score
doesn't have, that it leaves out, or states otherwise.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import table  # noqa: E402

from data_schemas.errors import ImageError  # noqa: E402
from data_schemas.report import Draft  # noqa: E402
from data_schemas.score import Score  # noqa: E402
from pipeline.model.package import open_package  # noqa: E402
from pipeline.model.runtime import Runtime  # noqa: E402
from pipeline.model.scoring import score_bytes  # noqa: E402
from pipeline.report.read import read  # noqa: E402
from services.cli.main import main as hilum  # noqa: E402
from tests.report.conftest import SecondReader  # noqa: E402

ANSWERS = ("positive", "negative", "indeterminate")


def draft_of(score: Score, writer: Path, scratch: Path) -> Draft:
    """Run `hilum report` on a score."""
    score.write_json(scratch / "score.json")
    words = ["report", str(scratch / "score.json"), "--writer", str(writer), "--format", "json"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = hilum(words)
    if code:
        raise SystemExit(f"hilum report ended with code {code}")
    return Draft.model_validate_json(printed.getvalue())


def first_reading(text: str) -> dict[str, list[str]]:
    """Return finding -> states, read by the product's reader."""
    found: dict[str, list[str]] = {}
    for mention in read(text).findings:
        found.setdefault(mention.finding, []).append(mention.state)
    return found


def second_reading(text: str) -> dict[str, list[str]]:
    """Return finding -> states, read by the tests' reader."""
    return SecondReader(text).findings


def differences(score: Score, stated: dict[str, list[str]]) -> Counter[str]:
    """Return how many findings are invented, left out, or stated otherwise."""
    has = {finding.name: finding.state for finding in score.findings}
    judged = score.verdict in ANSWERS
    found: Counter[str] = Counter()
    for name, states in stated.items():
        if name not in has:
            found["invented"] += states != ["not_assessed"]
        elif not judged:
            found["invented"] += 1
        elif states != [has[name]]:
            found["otherwise"] += 1
    if judged:
        found["left out"] += sum(name not in stated for name in has)
    return found


def main() -> None:
    """Print the table."""
    demo = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "hilum-demo"
    if not (demo / "writer").is_dir():
        print(f"not measured: {demo} is no finished demo; run `make demo` first")
        return
    package = open_package(next((demo / "package").rglob("card.json")).parent)
    runtime = Runtime(package)
    counts: Counter[str] = Counter()
    readers = {"product": Counter[str](), "tests": Counter[str]()}
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(path for path in (demo / "cohort/archive").rglob("*") if path.is_file()):
            try:
                score = score_bytes(package, runtime, path.read_bytes())
            except ImageError:
                counts["refused files"] += 1
                continue
            draft = draft_of(score, demo / "writer", Path(scratch))
            text = draft.text
            counts["drafts"] += 1
            counts[f"by {draft.source}"] += 1
            counts["insufficient quality"] += score.verdict == "insufficient_quality"
            counts["findings"] += len(score.findings) if score.verdict in ANSWERS else 0
            readers["product"] += differences(score, first_reading(text))
            readers["tests"] += differences(score, second_reading(text))
    print(", ".join(f"{name}: {count}" for name, count in counts.items()) + "\n")
    kinds = ("invented", "left out", "otherwise")
    rows = [(name, *(found[kind] for kind in kinds)) for name, found in readers.items()]
    print(table(("reader", *kinds), rows))
    if any(sum(found.values()) for found in readers.values()):
        raise SystemExit("a draft doesn't say what its score says")


if __name__ == "__main__":
    main()
