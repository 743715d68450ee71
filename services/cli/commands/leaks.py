"""Examine a data set for leaks: what lets a model look better than it is, or contradicts its labels.

    hilum leaks datasets/fundus
    hilum leaks datasets/fundus --strict

Looked for: one patient, or the two eyes of one patient, in two splits; the same or almost the same
picture in two splits; different labels of the same picture; a site, device, size or border that alone
predicts a label; a laterality that the picture contradicts. docs/leaks.md explains each finding.

The report is written to leaks.json in the data set's folder, where training looks for it, and its
page, dataset.html, is written anew. Exit code 0;
with --strict 1 when a finding blocks.
"""

import argparse
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.console import Console

if TYPE_CHECKING:
    from data_schemas.leaks import LeakReport

_SHOWN = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="folder of `hilum ingest`")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 when a finding blocks training"
    )
    parser.add_argument(
        "--all", action="store_true", help="print every finding, not the first ones"
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Examine, write leaks.json and the page, print the report."""
    from pipeline.ingest.leaks.examine import examine_and_keep
    from pipeline.ingest.page.write import write_page
    from pipeline.ingest.store import open_dataset

    report = examine_and_keep(open_dataset(options.dataset), console.progress).report
    write_page(open_dataset(options.dataset), report, options.dataset)
    shown = len(report.findings) if options.all else _SHOWN
    console.result(report_text(report, shown), report.model_dump(mode="json"))
    return 1 if options.strict and report.blocking else 0


def report_text(report: "LeakReport", shown: int = _SHOWN) -> str:
    """Return the report as a person reads it: findings by kind, the blocking first, at most ``shown`` each."""
    head = f"{report.images} images: {report.blocking} findings block training, "
    lines = [f"{head}{report.warnings} are for a person to look at"]
    for (severity, kind), group in groupby(report.findings, lambda f: (f.severity, f.kind)):
        findings = list(group)
        lines += ["", f"{severity}: {kind.replace('_', ' ')} ({len(findings)})"]
        lines += [f"  {finding.sentence}" for finding in findings[:shown]]
        if len(findings) > shown:
            lines.append(f"  ... and {len(findings) - shown} more (--all, or leaks.json)")
    lines += ["", "looked at", *(f"  {sentence}" for sentence in report.examined)]
    if report.not_examined:
        lines += ["", "not examined", *(f"  {sentence}" for sentence in report.not_examined)]
    return "\n".join(lines)
