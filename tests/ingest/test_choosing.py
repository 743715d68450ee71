"""What stays of equal pixels: agreement, contradiction, missing labels, published test splits, copies."""

from dataclasses import replace

import numpy as np

from data_schemas.progress import silent
from pipeline.ingest.choose import choose, without_duplicates, without_near_duplicates
from pipeline.ingest.splits import SplitRule
from tests.ingest.test_splits import image


def test_the_fuller_of_two_agreeing_rows_stays():
    pairs = [image(1, "a", (2, None), pixel="p"), image(2, "b", (2, 1), pixel="p")]
    stay, refusals = without_duplicates(pairs)
    assert [taken.source_sha256[-1] for taken, _ in stay] == ["2"]
    assert [(r.code, r.patient, r.pixel_sha256) for r in refusals] == [("DUPLICATE", "a", "p")]


def test_a_contradiction_names_the_label_and_its_values():
    pairs = [image(1, "a", (2, None), pixel="p"), image(2, "b", (3, 1), pixel="p")]
    stay, refusals = without_duplicates(pairs, ("dr_grade", "maculopathy"))
    assert not stay
    assert {r.code for r in refusals} == {"CONFLICTING_LABEL"}
    assert "`dr_grade` 2 and 3" in refusals[0].reason
    assert "maculopathy" not in refusals[0].reason


def test_a_published_test_image_stays_and_its_twin_goes():
    test = image(2, "b", (1,), split="test", pixel="p")
    pairs = [image(1, "a", (0,), split="train", pixel="p"), (test[0], replace(test[1], official_test=True))]  # fmt: skip
    stay, refusals = without_duplicates(pairs)
    assert stay == [pairs[1]]
    assert refusals[0].code == "CONFLICTING_LABEL"


def test_of_two_patients_who_share_all_photographs_one_keeps_all():
    # in the order of digests the first photograph would stay with `b`, the second with `a`
    pairs = [
        image(1, "b", pixel="p"), image(2, "a", pixel="p"),
        image(3, "a", pixel="q"), image(4, "b", pixel="q"),
    ]  # fmt: skip
    stay, _ = without_duplicates(pairs)
    assert {known.patient for _, known in stay} == {"a"}


def test_copies_outside_the_sealed_split_are_refused_on_request():
    """Train holds a re-windowed copy of a test image and one of a tune image; tune a copy of test."""
    generator = np.random.default_rng(3)
    arrays = generator.integers(0, 255, (40, 12, 12, 1)).astype(np.uint8)
    splits = ["train"] * 30 + ["tune"] * 5 + ["test"] * 5
    arrays[0] = arrays[35] * 0.8 + 20  # train <- test
    arrays[1] = arrays[30] * 0.9 + 5  # train <- tune
    arrays[31] = arrays[36] * 0.7  # tune <- test
    arrays[2] = arrays[31]  # train <- tune <- test
    arrays[3] = arrays[4][:, ::-1] * 0.9  # within train, mirrored: nobody's leak
    pairs = [image(k, f"{k:016x}", split=split) for k, split in enumerate(splits)]
    chosen, nothing = choose(pairs, (), SplitRule())
    assert (len(chosen), nothing) == (40, [])
    kept, refusals = without_near_duplicates(chosen, lambda places: arrays[places], silent)
    assert sorted(int(r.source_sha256, 16) for r in refusals) == [0, 1, 2, 31]
    assert {r.code for r in refusals} == {"NEAR_DUPLICATE"}
    assert len(kept) == 36
