"""Decides what stays: equal pixels once, contradictions not at all, one split for each patient."""

from data_schemas.errors import DatasetError
from data_schemas.terms import Split
from pipeline.ingest.patients import split_of
from pipeline.ingest.records import Chosen, Known, Refusal, Taken

Pair = tuple[Taken, Known]


def without_duplicates(pairs: list[Pair]) -> tuple[list[Pair], list[Refusal]]:
    """Return which images stay, and the refusals of the others.

    Equal prepared pixels with equal labels stay once, the first in the order given; with
    different labels none stays. The images of a published test split always stay, so that figures
    on it compare with published ones; their twins elsewhere go.
    """
    groups: dict[str, list[int]] = {}
    for place, (image, _) in enumerate(pairs):
        groups.setdefault(image.pixel_sha256, []).append(place)
    stay: set[int] = set()
    refusals: list[Refusal] = []
    for places in groups.values():
        official = [place for place in places if pairs[place][1].official_test]
        conflict = len({pairs[place][1].labels for place in places}) > 1
        kept = official or ([] if conflict else places[:1])
        stay.update(kept)
        code, reason = "DUPLICATE", "the same pixels were taken from another file"
        if conflict:
            code = "CONFLICTING_LABEL"
            reason = f"{len(places)} files have these pixels and different labels"
        refusals += [_refusal(pairs[place], code, reason) for place in places if place not in kept]
    return [pair for place, pair in enumerate(pairs) if place in stay], refusals


def _refusal(pair: Pair, code: str, reason: str) -> Refusal:
    image, known = pair
    return Refusal(
        image.source_sha256,
        code,
        reason,
        frame=image.frame,
        place_key=image.place_key,
        label_line=known.line,
    )


def assign(stay: list[Pair]) -> list[Chosen]:
    """Give every image its patient's split.

    Raises
    ------
    DatasetError
        If the label table puts images of one patient into different splits.
    """
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
    return [
        Chosen(
            image,
            known,
            given[known.patient][0] if known.patient in given else split_of(known.patient),
        )
        for image, known in stay
    ]
