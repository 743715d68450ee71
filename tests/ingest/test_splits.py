"""Splits and folds: no patient in two of them whatever decides, a new patient moves no other."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_schemas.errors import DatasetError, UsageError
from data_schemas.terms import SPLITS
from pipeline.ingest.patients import pseudonym
from pipeline.ingest.records import Known, Refusal, Taken
from pipeline.ingest.splits import SHARES, SplitRule, assign, deal, parse_shares, split_of


def image(number, patient, labels=(0,), split=None, site="", pixel=None):
    digest = f"{number:064x}"
    taken = Taken(
        source_sha256=digest, frame=0, pixel_sha256=pixel or digest, place_key=f"{number:016x}",
        instance_key="", patient="", site="", laterality="U", view="", device="", format="png",
        modality="", rows=8, columns=8, features={}, warnings=(), spool_row=number,
    )  # fmt: skip
    return taken, Known(labels, patient, "U", site=site, split=split, where=f"labels.csv:{number}")


def splits_of(chosen):
    found = defaultdict(set)
    for one in chosen:
        found[one.known.patient].add((one.split, one.fold))
    return found


people = st.integers(0, 30).map(lambda k: pseudonym(b"k" * 16, str(k)))
cohorts = st.lists(
    st.tuples(people, st.integers(-1, 3), st.sampled_from(["", "north", "south"])),
    min_size=8,
    max_size=60,
)
rules = st.builds(
    SplitRule,
    how=st.sampled_from(["hash", "stratified"]),
    shares=st.sampled_from([SHARES, parse_shares("train=.6,test=.4"), parse_shares("test=1")]),
    external=st.sampled_from([{}, {"north": frozenset({"north"})}]),
)


@given(cohorts, rules, st.dictionaries(people, st.sampled_from(SPLITS), max_size=10), st.data())
def test_no_patient_is_ever_in_two_splits(cohort, rule, given_splits, data):
    """Whatever the label table, held-out sites, the version before and shared photographs say."""
    if rule.external and not any(site == "north" for _, _, site in cohort):
        rule = replace(rule, external={})
    held_out = {patient for patient, _, site in cohort if rule.external and site == "north"}
    stay = [
        image(k, patient, (None if label < 0 else label,), split, site)
        for k, (patient, label, site) in enumerate(cohort)
        for split in (None if patient in held_out else given_splits.get(patient),)
    ]
    before = data.draw(
        st.dictionaries(people, st.tuples(st.sampled_from(SPLITS), st.integers(-1, 2)), max_size=10)
    )
    chosen = assign(stay, replace(rule, before=before))
    assert len(chosen) == len(stay)
    found = splits_of(chosen)
    assert all(len(parts) == 1 for parts in found.values())
    for patient, ((split, _),) in found.items():
        if patient in held_out:
            assert split == "external"
        elif patient in given_splits:
            assert split == given_splits[patient]
        elif patient in before:
            assert split == before[patient][0]


@given(st.lists(people, min_size=1, unique=True), people)
def test_a_new_patient_moves_no_other_by_hash(patients, newcomer):
    stay = [image(k, patient) for k, patient in enumerate(patients)]
    more = [image(900, newcomer), *stay]
    assert splits_of(assign(stay)).items() <= splits_of(assign(more)).items()


@given(cohorts, cohorts, st.sampled_from(["hash", "stratified"]), st.sampled_from([0, 2]))
def test_the_next_version_moves_nobody(old, new, how, folds):
    def pairs(cohort, first):
        return [image(first + k, p, (max(label, 0),)) for k, (p, label, _) in enumerate(cohort)]

    # two people who are always in train, so that there is enough for the folds
    base = [image(500, "a" * 16, split="train"), image(501, "b" * 16, split="train")]
    before = splits_of(assign(base + pairs(old, 0), SplitRule(how, folds=folds)))
    kept = {patient: parts for patient, (parts,) in before.items()}
    rule = SplitRule(how, folds=folds, before=kept)
    after = splits_of(assign(base + pairs(old, 0) + pairs(new, 100), rule))
    assert all(after[patient] == {parts} for patient, parts in kept.items())


def test_stratified_gives_every_split_its_share_of_every_class():
    counts = {0: 120, 1: 40, 2: 20, 3: 13}
    labels = [label for label, count in counts.items() for _ in range(count)]
    stay = [image(k, pseudonym(b"k", str(k)), (label,)) for k, label in enumerate(labels)]
    chosen = assign(stay, SplitRule("stratified"))
    table = Counter((one.known.labels[0], one.split) for one in chosen)
    for label, count in counts.items():
        for split, share in SHARES:
            assert abs(table[label, split] - share * count) < 1.5, (label, split, table)
    totals = Counter(one.split for one in chosen)
    for split, share in SHARES:
        assert abs(totals[split] - share * len(labels)) <= 1.5
    assert assign(stay[::-1], SplitRule("stratified"))[::-1] == chosen


def test_many_small_strata_do_not_all_fall_to_the_largest_part():
    strata = {f"{k:016x}": (k,) for k in range(100)}
    dealt = Counter(deal(strata, [share for _, share in SHARES], {}).values())
    assert [dealt[k] for k in range(4)] == [55, 10, 15, 20]


def test_a_patient_counts_by_the_highest_grade_of_both_eyes():
    stay = []
    for k in range(40):
        patient = pseudonym(b"k", str(k))
        stay += [image(2 * k, patient, (0,)), image(2 * k + 1, patient, (3 if k < 20 else 0,))]
    chosen = assign(stay, SplitRule("stratified", parse_shares("train=.5,test=.5")))
    sick = {one.known.patient: one.split for one in chosen if one.known.labels == (3,)}
    assert Counter(sick.values()) == {"train": 10, "test": 10}


def test_folds_are_by_patient_stratified_and_leave_sealed_splits_alone():
    stay = []
    for k in range(200):
        patient = pseudonym(b"k", str(k))
        split = "test" if k < 30 else None
        stay += [image(2 * k + eye, patient, (int(k % 5 == 0),), split) for eye in (0, 1)]
    chosen = assign(stay, SplitRule(shares=parse_shares("train=.7,tune=.3"), folds=5))
    assert {one.fold for one in chosen if one.split == "test"} == {-1}
    open_ones = [one for one in chosen if one.split != "test"]
    sizes = Counter(one.fold for one in open_ones)
    assert set(sizes) == set(range(5))
    assert max(sizes.values()) - min(sizes.values()) <= 2
    positive = Counter(one.fold for one in open_ones if one.known.labels == (1,))
    assert max(positive.values()) - min(positive.values()) <= 2
    with pytest.raises(DatasetError, match="can't make 500 folds"):
        assign(stay, SplitRule(folds=500))


def test_a_site_is_held_out_with_all_of_its_patients():
    stay = [image(k, f"{k // 2:016x}", site="north" if k % 5 == 0 else "south") for k in range(60)]
    chosen = assign(stay, SplitRule(external={"north": frozenset({"north", "f" * 16})}))
    seen_there = {one.known.patient for one in chosen if one.known.site == "north"}
    for one in chosen:
        assert (one.split == "external") == (one.known.patient in seen_there)
    with pytest.raises(DatasetError, match="no image is from site east") as refused:
        assign(stay, SplitRule(external={"east": frozenset({"east"})}))
    assert "south (48 images)" in refused.value.mend
    named = [image(0, "a", split="train", site="north"), image(1, "b", site="south")]
    with pytest.raises(DatasetError, match="seen at a site that is held out"):
        assign(named, SplitRule(external={"north": frozenset({"north"})}))


def test_two_splits_of_one_patient_are_every_time_named():
    stay = [image(1, "a", split="train"), image(2, "a", split="test"), image(3, "a", split="tune")]
    with pytest.raises(DatasetError) as refused:
        assign(stay)
    assert refused.value.what.count("labels.csv:") == 4


def test_two_numbers_of_one_person_go_to_one_split():
    """Pseudonyms chosen so that the hash alone would part them."""
    train = next(p for p in (f"{k:016x}" for k in range(99)) if split_of(p) == "train")
    test = next(p for p in (f"{k:016x}" for k in range(99)) if split_of(p) == "test")
    stay = [image(1, train, pixel="shared"), image(2, train), image(3, test)]
    double = Refusal("9" * 64, "DUPLICATE", "", pixel_sha256="shared", patient=test)
    assert len({one.split for one in assign(stay)}) == 2
    assert len({one.split for one in assign(stay, doubles=[double])}) == 1
    # a double whose patient has nothing else links nobody
    other = replace(double, patient="c" * 16)
    assert splits_of(assign(stay, doubles=[other])) == splits_of(assign(stay))


def test_shares_are_read_or_refused():
    assert parse_shares("train=.6, test=0.4") == (("train", 0.6), ("test", 0.4))
    for wrong in ("train=.6", "train=1.2,test=-.2", "validation=1", "train=.5,train=.5", "train", ""):  # fmt: skip
        with pytest.raises(UsageError):
            parse_shares(wrong)
    assert split_of("anybody", parse_shares("test=1")) == "test"
