"""Leaks that need no look at pixels: one patient or one array in two splits, labels that contradict."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_schemas.leaks import LeakFinding, LeakKind
from pipeline.ingest.leaks.images import Images, named

_BY_PATIENT = (
    "ingest again without a `split` column, or give all rows of a patient the same split there"
)


def patients_in_two_splits(images: Images) -> list[LeakFinding]:
    """Find patients whose images lie in different splits.

    Where the splits share no side of the body (left eye here, right eye there) the finding is
    ``other_eye``: two eyes of a patient are alike, so that this leaks, too.
    """
    findings = []
    for patient, places in _groups(images.patient).items():
        if not _leaking(images, places):
            continue
        order = images.most_sealed(places)
        splits = list(dict.fromkeys(str(images.split[k]) for k in order))
        sides = [{str(images.laterality[k]) for k in order if images.split[k] == s} for s in splits]
        one_side = all(side in ({"L"}, {"R"}) for side in sides)
        disjoint = one_side and len(set().union(*sides)) == len(sides)
        where = " and ".join(splits)
        what = (
            f"the two eyes of patient {patient} lie in {where}"
            if disjoint
            else f"patient {patient} has {len(order)} images in {where}"
        )
        kind: LeakKind = "other_eye" if disjoint else "same_patient"
        findings.append(images.finding(kind, order, f"{what}: {_BY_PATIENT}"))
    return findings


def pixels_in_two_splits(images: Images) -> list[LeakFinding]:
    """Find equal prepared arrays in different splits."""
    findings = []
    for places in _groups(images.pixel).values():
        if not _leaking(images, places):
            continue
        order = images.most_sealed(places)
        sentence = (
            f"the same pixels: {', '.join(images.named(k) for k in order)}: "
            "ingest again, equal pixels are then taken once"
        )
        findings.append(images.finding("same_pixels", order, sentence, value=1.0))
    return findings


def contradictions(images: Images, refusals: list[dict[str, Any]]) -> list[LeakFinding]:
    """Find equal arrays with different labels, among what stays and what was refused for it."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in refusals:
        if row["code"] == "CONFLICTING_LABEL" and row.get("pixel_sha256"):
            groups[row["pixel_sha256"]].append(row)
    stay = _groups(images.pixel)
    for pixel, places in stay.items():
        if len(places) > 1 and images.differing(places):
            groups.setdefault(pixel, [])
    return [_contradiction(images, stay.get(pixel, []), rows) for pixel, rows in groups.items()]


def _contradiction(images: Images, stay: list[int], refused: list[dict[str, Any]]) -> LeakFinding:
    files = [named(row["source_sha256"], row["label_line"]) + ", refused" for row in refused]
    files += [images.named(k) for k in stay]
    patients = [row.get("patient", "") for row in refused]
    patients = list(dict.fromkeys([*patients, *(str(images.patient[k]) for k in stay)]))
    patients = [patient for patient in patients if patient]
    people = f" of {len(patients)} patients" if len(patients) > 1 else ""
    labels = images.differing(stay)
    reason = next((row["reason"] for row in refused), "different labels: " + ", ".join(labels))
    return LeakFinding(
        kind="conflicting_label",
        severity="warns",
        sentence=f"the same picture in {len(files)} files{people}: {'; '.join(files)}: {reason}; "
        "find out which label is right and remove the other row",
        source_sha256=(
            *(row["source_sha256"] for row in refused),
            *(str(images.source[k]) for k in stay),
        ),
        label_lines=(
            *(row["label_line"] for row in refused),
            *(int(images.line[k]) for k in stay),
        ),
        patients=tuple(patients),
        value=1.0,
    )


def persons_under_two_numbers(images: Images, refusals: list[dict[str, Any]]) -> list[LeakFinding]:
    """Find patients who share a photograph with another patient, and images in different splits.

    A photograph that stands under two patients shows one person. It was taken once; what else
    belongs to the other number may lie in another split.
    """
    if not images.has_patients:
        return []
    owners = dict(zip(images.pixel.tolist(), images.patient.tolist(), strict=True))
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for row in refusals:
        owner, patient = owners.get(row.get("pixel_sha256", "")), row.get("patient", "")
        if row["code"] == "DUPLICATE" and owner and patient and owner != patient:
            pairs.setdefault((min(owner, patient), max(owner, patient)), row)
    places = _groups(images.patient)
    findings = []
    for pair, row in pairs.items():
        both = [k for patient in pair for k in places.get(patient, [])]
        if not all(patient in places for patient in pair) or not _leaking(images, both):
            continue
        order = images.most_sealed(both)
        where = " and ".join(dict.fromkeys(str(images.split[k]) for k in order))
        sentence = (
            f"patients {pair[0]} and {pair[1]} share a photograph "
            f"({named(row['source_sha256'], row['label_line'])}), so that they seem to be one "
            f"person, whose images lie in {where}: give both the same patient in the label table"
        )
        findings.append(images.finding("same_patient", order, sentence))
    return findings


def _leaking(images: Images, places: Iterable[int]) -> bool:
    # one image of each split is enough to tell
    ones = list({str(images.split[k]): k for k in places}.values())
    return any(images.leaks_between(a, b) for n, a in enumerate(ones) for b in ones[:n])


def _groups(values: Any) -> dict[str, list[int]]:
    """Return the places of every value, in the order of the values."""
    order = np.argsort(values, kind="stable")
    names, starts = np.unique(values[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {str(name): part.tolist() for name, part in zip(names, parts, strict=True)}
