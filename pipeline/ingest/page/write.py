"""Writes ``dataset.html`` and ``funnel.svg`` into a data set's folder."""

from html import escape
from pathlib import Path

import numpy as np

from data_schemas.files import replacing
from data_schemas.leaks import LeakReport
from pipeline.ingest.page import funnel
from pipeline.ingest.page.charts import histograms
from pipeline.ingest.page.counts import (
    folds_table,
    kinds_table,
    label_table,
    sizes_table,
    splits_table,
    strings,
)
from pipeline.ingest.page.looks import intensities
from pipeline.ingest.page.markup import Cell, section, table
from pipeline.ingest.page.recipe import contract_facts, made
from pipeline.ingest.page.sheets import contact_sheet, leaks, refusals, refused
from pipeline.ingest.page.stages import stages
from pipeline.ingest.store import Dataset

PAGE = "dataset.html"
FUNNEL = "funnel.svg"

_STYLE = Path(__file__).parent / "style.css"


def write_page(dataset: Dataset, report: LeakReport | None, folder: Path) -> None:
    """Write the page and the funnel; both are the same for the same data set.

    Images are read in blocks, pictures and lists are bounded: memory doesn't grow with the pixels.
    The page needs nothing but itself: no script, no other file, no network.

    Parameters
    ----------
    report
        What the leak doctor found; ``None``: not examined.
    """
    with replacing(folder / FUNNEL) as path:
        path.write_text(funnel.funnel_svg(dataset.info, alone=True), encoding="utf-8")
    with replacing(folder / PAGE) as path:
        path.write_text(page(dataset, report), encoding="utf-8")


def page(dataset: Dataset, report: LeakReport | None) -> str:
    """Return the page as HTML."""
    info = dataset.info
    parts = {
        "flow": section("flow", "From files to images", _flow(dataset)),
        "splits": section("splits", "Splits and labels", _splits(dataset)),
        "leaks": section("leaks", "Leaks and contradictions", _leaks(dataset, report)),
        "sheet": section("sheet", "Contact sheet", _sheet(dataset)),
        "distributions": section("distributions", "Sizes and intensities", _looks(dataset)),
        "refusals": section("refusals", "Refusals", _refusals(dataset)),
        "contract": section("contract", "Contract", contract_facts(dataset.contract)),
        "made": section("made", "Version and digests", made(info)),
    }
    titles = ("Flow", "Splits", "Leaks", "Images", "Distributions", "Refusals", "Contract", "Version")  # fmt: skip
    links = "".join(
        f'<a href="#{name}">{title}</a>' for name, title in zip(parts, titles, strict=True)
    )
    style = _STYLE.read_text(encoding="utf-8") + funnel.STYLE
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>Data set {escape(info.name)}</title><style>{style}</style></head>"
        f'<body><header><p class="kind">Data set, version {info.version}</p><h1>{escape(info.name)}</h1>'
        f'{_figures(dataset, report)}<nav aria-label="Parts of the page">{links}</nav></header>'
        f"<main>{''.join(parts.values())}</main>"
        f"<footer>hilum {escape(info.hilum_version)}. Images are named by the first 12 digits of the SHA-256 of their file; patients appear as pseudonyms only.</footer></body></html>\n"
    )


def _figures(dataset: Dataset, report: LeakReport | None) -> str:
    info = dataset.info
    lost = sum(info.refused.values())
    verdict, state = _verdict(report)
    numbers = (
        (f"{info.files_read:,}", "files read", ""),
        (f"{info.images:,}", "images", ""),
        (f"{info.patients:,}", "patients", ""),
        (f"{lost:,}", "refused", ""),
        (verdict, "leak doctor", state),
    )
    return '<ul class="figures">' + "".join(
        f'<li class="{state}"><strong>{number}</strong> {name}</li>'
        for number, name, state in numbers
    ) + "</ul>"  # fmt: skip


def _verdict(report: LeakReport | None) -> tuple[str, str]:
    if report is None:
        return "not examined", "warns"
    blocking = sum(finding.severity == "blocks" for finding in report.findings)
    if blocking:
        return f"{blocking:,} blocking", "blocks"
    if report.findings:
        return f"{len(report.findings):,} to look at", "warns"
    return "nothing found", "good"


def _flow(dataset: Dataset) -> str:
    rows: list[tuple[Cell, ...]] = []
    for stage in stages(dataset.info):
        lost = sum(count for _, count in stage.lost)
        why = ", ".join(
            f'<a href="#refused-{escape(code)}">{escape(code)}</a>&nbsp;{count:,}'
            for code, count in stage.lost
        )
        rows.append((escape(stage.name), stage.passed, lost or "–", why))
    head = ("step", "passed", "refused here", "why")
    numbers = table("The same in numbers", head, rows, words="why")
    drawing = funnel.funnel_svg(dataset.info)
    return f'<div class="flow"><div class="drawing">{drawing}</div>{numbers}</div>'


def _splits(dataset: Dataset) -> str:
    labels = "".join(label_table(dataset, label) for label in dataset.info.labels)
    if not labels:
        labels = '<p class="quiet">The data set has no labels.</p>'
    tables = (
        splits_table(dataset)
        + labels
        + folds_table(dataset)
        + kinds_table(dataset, "site", "Site")
        + kinds_table(dataset, "device", "Device")
        + kinds_table(dataset, "laterality", "Laterality")
        + kinds_table(dataset, "view", "View")
        + kinds_table(dataset, "modality", "Modality")
        + kinds_table(dataset, "format", "Format")
    )
    return f'<div class="tables">{tables}</div>'


def _sheet(dataset: Dataset) -> str:
    told = "Prepared images, as the network sees them, evenly spaced over the data set" + (
        ", by the classes of its first label" if dataset.info.labels else ""
    )
    return f'<p class="quiet">{told}.</p>{contact_sheet(dataset)}'


def _looks(dataset: Dataset) -> str:
    measured = intensities(dataset)
    split = strings(dataset, "split")
    names = [name for name, images in dataset.info.splits.items() if images]
    inside = split[measured.indices]
    sides = np.maximum(
        dataset.manifest["source_rows"].to_numpy(), dataset.manifest["source_columns"].to_numpy()
    ).astype(np.float64)
    some = len(measured.indices)
    note = f'<p class="quiet">Intensities of {some:,} of {dataset.info.images:,} images; black is left out. The line is the median.</p>'
    drawn = histograms("Mean intensity of each image", "", {n: measured.mean[inside == n] for n in names})  # fmt: skip
    drawn += histograms("Spread of intensity in each image (standard deviation)", "", {n: measured.spread[inside == n] for n in names})  # fmt: skip
    if np.ptp(sides) > 0:
        drawn += histograms("Longer side of the source", " px", {n: sides[split == n] for n in names})  # fmt: skip
    return f"{note}{drawn}{sizes_table(dataset)}"


def _refusals(dataset: Dataset) -> str:
    groups = refused(dataset)
    if not groups:
        return '<p class="quiet">Nothing was refused.</p>'
    return refusals(groups)


def _leaks(dataset: Dataset, report: LeakReport | None) -> str:
    if report is None:
        return '<p class="quiet">Not examined. <code>hilum leaks</code> examines a data set.</p>'
    if not report.findings:
        return f"<p>Nothing was found in {report.images:,} images.</p>{leaks(dataset, report)}"
    return leaks(dataset, report)
