"""The five answers, the doubts, the worst mistakes and the tables behind them, on counted cases."""

import re

import numpy as np
import pytest

from data_schemas.card import Interval
from pipeline.evaluate import mistakes, tables
from pipeline.evaluate.review import LINE, QUESTIONS, Review, note, with_limits
from pipeline.evaluate.review_page import Content, review_page

TRUTH = np.array([1, 1, 1, 0, 0, 0])
PROBABILITY = np.array([0.9, 0.2, 0.45, 0.7, 0.1, 0.5])


def _review(**changed):
    answers = {"good": "g", "sure": "s", "whom": "w", "data": "d", "wrong": "r", **changed}
    return Review(**answers, flags=("<doubt> & more",))


def test_the_worst_mistakes_come_first_and_a_threshold_belongs_to_the_positives():
    found = mistakes.worst(TRUTH, PROBABILITY, 0.5, 0.5)
    # 0.5 is called: row 5 is a false alarm that lies on the threshold itself
    assert [(one.kind, one.place) for one in found] == [
        ("worst_fn", 1),
        ("worst_fp", 3),
        ("worst_fn", 2),
        ("worst_fp", 5),
    ]
    assert [round(one.distance, 2) for one in found] == [0.3, 0.2, 0.05, 0.0]


def test_what_lies_between_two_thresholds_is_undecided_and_no_mistake():
    found = mistakes.worst(TRUTH, PROBABILITY, 0.3, 0.6)
    assert [(one.kind, one.place) for one in found] == [("worst_fn", 1), ("worst_fp", 3)]


def test_no_mistake_is_no_picture_and_equal_distances_keep_their_order():
    assert mistakes.worst(TRUTH, TRUTH.astype(float), 0.5, 0.5) == []
    level = mistakes.worst(np.array([1, 1, 1]), np.array([0.2, 0.2, 0.2]), 0.5, 0.5)
    assert [one.place for one in level] == [0, 1, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_is_a_picture_of_all_pictures(channels):
    pictures = [np.full((20, 20, channels), 40 * k, np.uint8) for k in range(5)]
    sheet = mistakes.sheet(pictures, [f"row {k}" for k in range(5)], "five")
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3
    levels = {40 * k for k in range(1, 5)}
    assert levels <= set(np.unique(sheet).tolist())


def test_the_note_is_five_lines_that_fit_and_holds_no_markup_of_its_answers():
    text = note(_review(good="<script>alert(1)</script>", whom="x" * 400), "#/page?a=b&c=d")
    lines = text.removeprefix("<h5>").removesuffix("</h5>").split("<br>")
    assert len(lines) == len(QUESTIONS)
    for line, question in zip(lines, QUESTIONS, strict=True):
        assert line.startswith(f"<b>{question}</b> ")
        assert len(re.sub("<[^>]+>", "", line)) <= LINE + 2
    assert "<script" not in text
    assert lines[2].endswith("…")
    assert 'href="#/page?a=b&amp;c=d"' in lines[-1]


def test_an_interval_says_what_is_known_of_it():
    assert with_limits(Interval(value=0.8334, low=0.7, high=0.9)) == "0.833 (0.700–0.900)"
    assert with_limits(Interval(value=0.5)) == "0.500"
    assert with_limits(Interval(value=None)) == "undefined"


def test_the_page_loads_nothing_and_escapes_what_it_is_told():
    table = tables.Table(("name", "n"), (("<b>x</b>", 3), (None, 0.25)))
    page = review_page(
        Content(
            title="<i>t</i>",
            intended_use="none",
            review=_review(),
            figures={},
            sheets={"missed": np.zeros((4, 4, 3), np.uint8)},
            tables={"T": table, "empty": tables.Table(("a",), ())},
            remarks=["1 < 2"],
            facts={"run": "abc"},
        )
    )
    assert "<i>t" not in page
    assert "<b>x" not in page
    assert "&lt;doubt&gt; &amp; more" in page
    assert "1 &lt; 2" in page
    assert "undefined" in page
    assert "0.250" in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_a_long_table_says_how_much_is_left_out():
    table = tables.Table(("n",), tuple((k,) for k in range(50)))
    assert "and 30 more" in review_page(Content("t", "", _review(), {}, {}, {"T": table}, (), {}))


def test_a_table_by_column_is_the_same_table():
    table = tables.Table(("a", "b"), ((1, "x"), (2, "y")))
    assert table.by_column() == {"a": [1, 2], "b": ["x", "y"]}
    assert tables.Table(("a",), ()).by_column() == {"a": []}
