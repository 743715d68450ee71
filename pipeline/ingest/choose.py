"""Decides what stays: equal pixels once, contradictions not at all, one split for each patient."""

from dataclasses import dataclass

from data_schemas.errors import DatasetError
from data_schemas.terms import Split
from pipeline.ingest.patients import pseudonym, split_of
from pipeline.ingest.taking import Refusal, Taken


@dataclass(frozen=True, slots=True, repr=False)
class Chosen:
    """An image that stays: its place among all taken ones, its pseudonym and split."""

    taken: Taken
    place: int
    patient: str
    split: Split


def without_duplicates(taken: list[Taken]) -> tuple[list[tuple[int, Taken]], list[Refusal]]:
    """Return which images stay (with their places) and the refusals of the others.

    Equal prepared pixels with equal labels stay once, the first in the order of digests; with
    different labels none stays. The images of a published test split always stay, so that figures
    on it compare with published ones; their twins elsewhere go.
    """
    groups: dict[str, list[int]] = {}
    for place, image in enumerate(taken):
        groups.setdefault(image.pixel_sha256, []).append(place)
    stay: set[int] = set()
    refusals: list[Refusal] = []
    for places in groups.values():
        official = [place for place in places if taken[place].candidate.official_test]
        conflict = len({taken[place].candidate.labels for place in places}) > 1
        kept = official or ([] if conflict else places[:1])
        stay.update(kept)
        for place in places:
            if place in kept:
                continue
            digest = taken[place].candidate.source_sha256
            if conflict:
                reason = f"{len(places)} files have these pixels and different labels"
                refusals.append(Refusal(digest, "CONFLICTING_LABEL", reason))
            else:
                reason = "the same pixels were taken from another file"
                refusals.append(Refusal(digest, "DUPLICATE", reason))
    return [(place, image) for place, image in enumerate(taken) if place in stay], refusals


def assign(stay: list[tuple[int, Taken]], key: bytes) -> list[Chosen]:
    """Give every image its patient's pseudonym and split.

    Raises
    ------
    DatasetError
        If the label table puts images of one patient into different splits.
    """
    patients = [_pseudonym(image, key) for _, image in stay]
    given: dict[str, tuple[Split, str]] = {}
    faults: list[str] = []
    for patient, (_, image) in zip(patients, stay, strict=True):
        split, where = image.candidate.split, image.candidate.where
        if split is None:
            continue
        first, place = given.setdefault(patient, (split, where))
        if first != split:
            faults.append(
                f"{where}: split: `{split}`, but {place} puts this patient into `{first}`"
            )
    if faults:
        raise DatasetError("\n".join(faults), mend="give all rows of a patient the same split")
    return [
        Chosen(image, place, patient, given[patient][0] if patient in given else split_of(patient))
        for patient, (place, image) in zip(patients, stay, strict=True)
    ]


def _pseudonym(image: Taken, key: bytes) -> str:
    # a file without a patient is its own; the prefix keeps it apart from every identifier
    own = f"file:{image.candidate.source_sha256}:{image.pixel_sha256}"
    return pseudonym(key, image.patient or own)
