"""The data set's page: its numbers add up, it names nobody, it needs nothing but itself."""

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.dataset import REFUSALS
from data_schemas.leaks import LeakFinding, LeakReport
from pipeline.ingest.page.looks import spaced
from pipeline.ingest.page.sheets import refused
from pipeline.ingest.page.stages import flow, funnel_text, stages
from pipeline.ingest.page.write import FUNNEL, PAGE, page, write_page
from pipeline.ingest.store import open_dataset

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Outline(HTMLParser):
    """Collects what a checker of the page's structure needs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in found:
            self.anchors.add(found["id"])
        if tag == "a":
            self.targets.add(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag not in ("meta", "img", "br", "path", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "img", "br", "path", "rect"):
            assert self.open.pop() == tag


@pytest.fixture
def dataset(mixed, take_in):
    _, folder = take_in(mixed.folder, mixed.labels)
    return open_dataset(folder)


@given(
    st.dictionaries(st.sampled_from(sorted(REFUSALS)), st.integers(0, 10**6)),
    st.integers(0, 10**6),
    st.integers(0, 50),
)
def test_the_funnel_adds_up_whatever_was_refused(codes, images, more_frames):
    whole = images + sum(codes.values())
    found = flow(max(0, whole - more_frames), images, codes)
    assert found[-1].passed == images
    start = next(stage.passed for stage in found if stage.passed == whole)
    assert start == images + sum(count for stage in found for _, count in stage.lost)
    assert {code for stage in found for code, _ in stage.lost} == {c for c in codes if codes[c]}
    for before, after in pairwise(found):
        if after.lost:
            assert before.passed - after.passed == sum(count for _, count in after.lost)


def test_the_page_shows_the_numbers_of_the_data_set(dataset):
    text = page(dataset, None)
    info = dataset.info
    assert info.files_read == info.images + sum(info.refused.values())
    assert [stage.passed for stage in stages(info)][:2] == [16, 14]
    assert f"{info.images:,}</strong> images" in text
    drawn = ET.parse(dataset.folder / FUNNEL).getroot()  # noqa: S314 - our own
    words = " ".join("".join(node.itertext()) for node in drawn.iter())
    for code, count in info.refused.items():
        assert f"{count}{code}" in words
        assert f'id="refused-{code}"' in text
        assert f"{-count}  {code}: " in funnel_text(info)
    for group in refused(dataset):
        assert group.count == info.refused[group.code]
        assert sum(count for _, count in group.reasons) == group.count


def test_the_page_is_sound_html_with_headings_alternatives_and_anchors(dataset):
    text = (dataset.folder / PAGE).read_text(encoding="utf-8")
    outline = Outline(text)
    assert not outline.open
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(outline.headings))
    assert {target.removeprefix("#") for target in outline.targets} <= outline.anchors
    assert outline.images
    for image in outline.images:
        assert image["alt"]
        assert image["src"].startswith("data:image/jpeg;base64,")
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)


def test_nothing_on_the_page_names_anybody(mixed, take_in, dataset):
    written = b"".join((dataset.folder / name).read_bytes() for name in (PAGE, FUNNEL))
    patients = {row["patient"] for row in mixed.rows if row["patient"]} | {"MRN-0", "MRN-1"}
    names = {Path(row["image"]).name for row in mixed.rows} | {"Doe", "labels.csv"}
    for planted in patients | names | {str(mixed.folder), str(dataset.folder)}:
        assert not re.search(rb"\b" + re.escape(planted.encode()) + rb"\b", written), planted


def test_the_same_data_set_gives_the_same_page(dataset, tmp_path):
    write_page(dataset, None, tmp_path)
    once = (tmp_path / PAGE).read_bytes()
    write_page(open_dataset(dataset.folder), None, tmp_path)
    assert (tmp_path / PAGE).read_bytes() == once


def test_text_of_labels_and_findings_is_escaped(dataset):
    source = dataset.manifest["source_sha256"].to_pylist()
    finding = LeakFinding(
        kind="near_duplicate",
        severity="blocks",
        sentence="<b>two</b> & alike",
        source_sha256=(source[0], source[1], "f" * 64),
    )
    more = tuple(finding for _ in range(9))
    report = LeakReport(
        content_sha256=dataset.info.content_sha256, images=dataset.info.images, findings=more
    )
    text = page(dataset, report)
    assert "&lt;b&gt;two&lt;/b&gt; &amp; alike" in text
    assert "<b>two" not in text
    assert text.count("no picture") == 6
    assert "and 3 more, in leaks.json" in text
    assert "9 blocking" in text
    assert text.count(f'alt="image {source[0][:12]}, ') == 6


def test_a_data_set_without_labels_has_a_page(mixed, take_in):
    _, folder = take_in(mixed.folder, None, "unlabelled")
    text = (folder / PAGE).read_text(encoding="utf-8")
    assert "The data set has no labels." in text
    assert "all images" in text


def test_spaced_keeps_both_ends():
    assert spaced(np.arange(10), 20).tolist() == list(range(10))
    some = spaced(np.arange(1000), 7)
    assert len(set(some.tolist())) == 7
    assert (some[0], some[-1]) == (0, 999)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_asks_for_nothing_and_complains_of_nothing(dataset):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    asked: list[str] = []
    said: list[str] = []
    with sync_api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (360, 1280):
            view = browser.new_page(viewport={"width": width, "height": 800})
            view.on("request", lambda request: asked.append(request.url))
            view.on("console", lambda message: said.append(message.text))
            view.on("pageerror", lambda error: said.append(str(error)))
            view.goto((dataset.folder / PAGE).as_uri())
            wide = view.evaluate("document.documentElement.scrollWidth")
            assert wide == width, "the page itself must not scroll sideways"
            loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            assert view.evaluate(loaded)
            boxes = view.evaluate(
                "[...document.querySelectorAll('svg.funnel text')].map(t => t.textContent)"
            )
        lost = sum(dataset.info.refused.values())
        assert boxes[0] == f"{dataset.info.images + lost}files read"
        assert sum(int(re.match(r"\d+", b)[0]) for b in boxes if re.search("[A-Z]{4}", b)) == lost
        browser.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert said == []
