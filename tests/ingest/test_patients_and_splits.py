"""Pseudonyms and splits: they depend on key and patient, and on nothing else."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.ingest.patients import pseudonym
from pipeline.ingest.splits import split_of
from pipeline.ingest.store import open_dataset
from tests.ingest.conftest import drawn


def test_a_pseudonym_needs_the_key():
    # HMAC-SHA256("key", "patient"), computed with openssl
    assert pseudonym(b"key", "patient") == "38fef5f2644ca504"
    assert pseudonym(b"other", "patient") != pseudonym(b"key", "patient")


def test_shares():
    counts = Counter(split_of(pseudonym(b"k", str(k))) for k in range(20_000))
    expected = {"train": 0.55, "tune": 0.10, "calibration": 0.15, "test": 0.20}
    for split in expected:
        assert abs(counts[split] / 20_000 - expected[split]) < 0.015


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.text(min_size=1))
def test_a_new_patient_moves_no_other(patients, newcomer):
    before = {patient: split_of(pseudonym(b"k", patient)) for patient in patients}
    after = {patient: split_of(pseudonym(b"k", patient)) for patient in [newcomer, *patients]}
    assert before.items() <= after.items()


def test_more_files_move_nobody(mixed, take_in):
    def splits(name: str) -> dict[str, str]:
        dataset = open_dataset(take_in(mixed.folder, None, name)[1])
        manifest = dataset.manifest
        return dict(
            zip(manifest["source_sha256"].to_pylist(), manifest["split"].to_pylist(), strict=True)
        )

    before = splits("a")
    for k in range(5):
        Image.fromarray(drawn(100 + k)).save(mixed.folder / f"new{k}.png")
    after = splits("b")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 5
