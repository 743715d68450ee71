"""Splits and folds: every patient whole in one of them, whatever decides which."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from data_schemas.errors import DatasetError, UsageError
from data_schemas.terms import SPLITS, Split
from pipeline.ingest.records import Chosen, Known, Refusal, Taken

Pair = tuple[Taken, Known]
Stratum = tuple[int, ...]
Shares = tuple[tuple[Split, float], ...]

SHARES: Shares = (("train", 0.55), ("tune", 0.10), ("calibration", 0.15), ("test", 0.20))
_SEALED = ("test", "external")


@dataclass(frozen=True)
class SplitRule:
    """How patients are put into splits, where the label table or the source doesn't say it."""

    how: Literal["hash", "stratified"] = "hash"
    """hash: by the pseudonym alone, so that a new patient moves no other. stratified: so that every
    split has its share of every class; a new patient may move others, unless they have a split."""
    shares: Shares = SHARES
    """Share of the patients for each split; together 1."""
    folds: int = 0
    """Cross-validation folds over all patients outside test and external; 0: none."""
    external: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Sites that are held out, by the name somebody gave -> the values of ``site`` that it may mean.
    Their patients, whole, make the split external."""
    before: Mapping[str, tuple[Split, int]] = field(default_factory=dict)
    """Split and fold of the patients of the version before: they keep both."""


def parse_shares(text: str) -> Shares:
    """Read shares such as ``train=.6,tune=.1,calibration=.1,test=.2``; a split left out gets none.

    Raises
    ------
    UsageError
        If a split is unknown or named twice, a share is no number of 0..1, or they don't add up to 1.
    """
    example = "write them as train=.6,tune=.1,calibration=.1,test=.2"
    shares: dict[Split, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        split = next((s for s in SPLITS if s == name.strip() and s != "external"), None)
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if split is None or split in shares or not 0 <= share <= 1:
            raise UsageError(f"`{part}` is no share of a split", where="--shares", mend=example)
        shares[split] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(
            f"the shares add up to {sum(shares.values()):g}, not to 1",
            where="--shares",
            mend=example,
        )
    return tuple((split, shares[split]) for split in SPLITS if split in shares)


def split_of(patient: str, shares: Shares = SHARES) -> Split:
    """Return the split of a pseudonym by its hash.

    It depends on nothing else: a new patient moves no other, and all images of one patient stay
    together.
    """
    place = _hashed(patient)
    for split, share in shares:
        if place < share:
            return split
        place -= share
    return shares[-1][0]


def assign(
    stay: list[Pair], rule: SplitRule = SplitRule(), doubles: Iterable[Refusal] = ()
) -> list[Chosen]:
    """Give every image its patient's split and fold.

    What decides, the first that says something: the sites held out, the label table or the source
    (``Known.split``), the version before, the rule. Patients who share a photograph (``doubles``,
    the duplicates that were refused) count as one person.

    Raises
    ------
    DatasetError
        If a patient is given two splits, a site held out has no image, or there are fewer patients
        than folds.
    """
    given = _given(stay)
    before = {patient: split for patient, (split, _) in rule.before.items()}
    known_splits = before | {patient: split for patient, (split, _) in given.items()}
    people = _people(stay, doubles, known_splits)
    fixed = {people[patient]: split for patient, split in given.items()}
    for patient in _at_sites(stay, rule.external):
        split, where = fixed.get(people[patient], ("external", ""))
        if split != "external":
            raise DatasetError(
                f"split: `{split}`, but the patient was seen at a site that is held out",
                where=where,
                mend="empty the split of this patient in the label table, or hold out another site",
            )
        fixed[people[patient]] = ("external", where)
    decided = {person: split for person, (split, _) in fixed.items()}
    for patient, person in people.items():
        if patient in before:
            decided.setdefault(person, before[patient])
    strata = _strata(stay, people)
    if rule.how == "hash":
        splits = {person: decided.get(person) or split_of(person, rule.shares) for person in strata}
    else:
        splits = _dealt(strata, rule.shares, decided)
    folds = _folds({p: s for p, s in strata.items() if splits[p] not in _SEALED}, people, rule)
    return [
        Chosen(image, known, splits[person], folds.get(person, -1))
        for image, known in stay
        for person in (people[known.patient],)
    ]


def _people(
    stay: list[Pair], doubles: Iterable[Refusal], known_splits: dict[str, Split]
) -> dict[str, str]:
    """Return patient -> the one pseudonym that stands for this person and all linked to them.

    Patients who have different splits already stay apart: the leak doctor then says so.
    """
    people = {known.patient: known.patient for _, known in stay}
    splits = dict(known_splits)
    owner = {image.pixel_sha256: known.patient for image, known in stay}

    def first(patient: str) -> str:
        while people[patient] != patient:
            patient = people[patient]
        return patient

    for refusal in doubles:
        other = owner.get(refusal.pixel_sha256)
        if other is not None and refusal.patient in people:
            one, two = sorted((first(other), first(refusal.patient)))
            if splits.get(one, splits.get(two)) == splits.get(two, splits.get(one)):
                people[two] = one
                splits |= {one: splits[two]} if two in splits else {}
    return {patient: first(patient) for patient in people}


def _given(stay: list[Pair]) -> dict[str, tuple[Split, str]]:
    given: dict[str, tuple[Split, str]] = {}
    faults: list[str] = []
    for _, known in stay:
        if known.split is None:
            continue
        first, place = given.setdefault(known.patient, (known.split, known.where))
        if first != known.split:
            faults.append(
                f"{known.where}: split: `{known.split}`, but {place} puts this patient into `{first}`"
            )
    if faults:
        raise DatasetError("\n".join(faults), mend="give all rows of a patient the same split")
    return given


def _at_sites(stay: list[Pair], sites: Mapping[str, frozenset[str]]) -> set[str]:
    found = Counter(known.site for _, known in stay)
    missing = sorted(name for name, values in sites.items() if not values & found.keys())
    if missing:
        known_sites = ", ".join(f"{site} ({found[site]} images)" for site in sorted(found) if site)
        raise DatasetError(
            f"no image is from site {', '.join(missing)}",
            where="external",
            mend=f"sites: {known_sites}"
            if known_sites
            else "give a column `site` in the label table: no image has a site",
        )
    wanted = frozenset().union(*sites.values())
    return {known.patient for _, known in stay if known.site in wanted}


def _strata(stay: list[Pair], people: dict[str, str]) -> dict[str, Stratum]:
    """Return person -> the highest known value of each label over their images; -1: unknown."""
    strata: dict[str, Stratum] = {}
    for _, known in stay:
        values = tuple(-1 if value is None else value for value in known.labels)
        person = people[known.patient]
        before = strata.get(person, values)
        strata[person] = tuple(map(max, before, values))
    return strata


def _dealt(
    strata: dict[str, Stratum], shares: Iterable[tuple[Split, float]], fixed: dict[str, Split]
) -> dict[str, Split]:
    order: list[tuple[str, float]] = [(split, share) for split, share in shares]
    places = {split: place for place, (split, _) in enumerate(order)}
    known = {person: places[split] for person, split in fixed.items() if split in places}
    elsewhere = {person for person, split in fixed.items() if split not in places}
    free = {person: stratum for person, stratum in strata.items() if person not in elsewhere}
    dealt = deal(free, [share for _, share in order], known)
    splits: dict[str, Split] = {split: split for split in SPLITS}
    return {
        person: fixed[person] if person in fixed else splits[order[dealt[person]][0]]
        for person in strata
    }


def deal(
    strata: Mapping[str, Stratum], shares: list[float], fixed: Mapping[str, int]
) -> dict[str, int]:
    """Deal people into parts so that each has its share of every stratum and of all.

    Within a stratum (the first label's class), ordered by the other labels and then by hash, the
    next person goes to the part that lacks most: of the stratum and of the whole together, so that
    many small strata don't all fall to the largest part. Deterministic. ``fixed`` counts along.
    """
    parts = range(len(shares))
    of_stratum: dict[int, list[int]] = defaultdict(lambda: [0] * len(shares))
    of_all = [0] * len(shares)
    dealt: dict[str, int] = {}

    def put(person: str, part: int) -> None:
        dealt[person] = part
        of_stratum[_first(strata[person])][part] += 1
        of_all[part] += 1

    for person, part in fixed.items():
        if person in strata:
            put(person, part)
    free = sorted(strata.keys() - dealt.keys(), key=lambda p: (strata[p], _hashed(p), p))
    for person in free:
        own = of_stratum[_first(strata[person])]
        lack = _lacking(shares, own), _lacking(shares, of_all)
        put(person, max(parts, key=lambda k: (round(lack[0][k] + lack[1][k], 9), shares[k], -k)))
    return dealt


def _lacking(shares: list[float], counts: list[int]) -> list[float]:
    total = sum(counts) + 1
    return [share * total - count for share, count in zip(shares, counts, strict=True)]


def _folds(strata: dict[str, Stratum], people: dict[str, str], rule: SplitRule) -> dict[str, int]:
    if not rule.folds:
        return {}
    if len(strata) < rule.folds:
        raise DatasetError(
            f"{len(strata)} patients outside test and external can't make {rule.folds} folds",
            where="folds",
        )
    before = {
        people[patient]: fold
        for patient, (_, fold) in rule.before.items()
        if patient in people and people[patient] in strata and 0 <= fold < rule.folds
    }
    return deal(strata, [1 / rule.folds] * rule.folds, before)


def _first(stratum: Stratum) -> int:
    return stratum[0] if stratum else 0


def _hashed(patient: str) -> float:
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
