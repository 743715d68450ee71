"""Decides what stays: equal pixels once, contradictions not at all, copies of another split on request."""

from dataclasses import replace

from data_schemas.progress import Progress
from pipeline.ingest.leaks.images import leaks_between, named, sealed_rank
from pipeline.ingest.leaks.neighbours import near_copies
from pipeline.ingest.leaks.small import Pixels
from pipeline.ingest.records import Chosen, Known, Refusal, Taken, refusal_of
from pipeline.ingest.splits import SplitRule, assign

Pair = tuple[Taken, Known]


def choose(
    pairs: list[Pair], names: tuple[str, ...], rule: SplitRule
) -> tuple[list[Chosen], list[Refusal]]:
    """Return the images that stay, with split and fold, and the refusals of the others.

    Parameters
    ----------
    names
        The labels' names, for the sentences.
    """
    stay, refusals = without_duplicates(pairs, names)
    return assign(stay, rule, refusals), refusals


def without_duplicates(
    pairs: list[Pair], names: tuple[str, ...] = ()
) -> tuple[list[Pair], list[Refusal]]:
    """Return which images stay, and the refusals of the others.

    Equal prepared pixels whose known labels agree stay once: the one with most labels known, of the
    most sealed split, of the first patient, the first in the order given. If a label has two
    different known values, none stays. The images of a published test split always stay, so that
    figures on it compare with published ones; their twins elsewhere go.

    Parameters
    ----------
    names
        The labels' names, for the sentences.
    """
    groups: dict[str, list[int]] = {}
    for place, (image, _) in enumerate(pairs):
        groups.setdefault(image.pixel_sha256, []).append(place)
    stay: set[int] = set()
    refusals: list[Refusal] = []
    for places in groups.values():
        official = [place for place in places if pairs[place][1].official_test]
        conflict = _differing([pairs[place][1] for place in places], names)
        kept = official or ([] if conflict else [_fullest(pairs, places)])
        stay.update(kept)
        code, reason = "DUPLICATE", "the same pixels were taken from another file"
        if conflict:
            code = "CONFLICTING_LABEL"
            reason = f"{len(places)} files have these pixels and different labels: {conflict}"
        refusals += [_refusal(pairs[place], code, reason) for place in places if place not in kept]
    return [pair for place, pair in enumerate(pairs) if place in stay], refusals


def without_near_duplicates(
    chosen: list[Chosen], pixels: Pixels, progress: Progress
) -> tuple[list[Chosen], list[Refusal]]:
    """Refuse images that are almost the same as one of a more sealed split; the sealed one stays.

    Parameters
    ----------
    pixels
        Prepared arrays of the images at places of ``chosen``.
    """
    leaking = []
    for pair in near_copies(pixels, len(chosen), progress):
        first, second = pair.first, pair.second
        if leaks_between(chosen[first].split, chosen[second].split):
            head, copy = sorted((first, second), key=lambda k: sealed_rank(chosen[k].split))
            leaking.append((head, copy, pair.correlation))
    refused: dict[int, Refusal] = {}
    # the most sealed first: what is refused for the test split needs no other reason
    for head, copy, correlation in sorted(leaking, key=lambda p: sealed_rank(chosen[p[0]].split)):
        if head in refused or copy in refused:
            continue
        image, known = chosen[head].taken, chosen[head].known
        reason = (
            f"almost the same picture as {named(image.source_sha256, known.line)} of "
            f"{chosen[head].split} (correlation {correlation:.3f})"
        )
        own = chosen[copy]
        refused[copy] = _refusal((own.taken, own.known), "NEAR_DUPLICATE", reason)
    return [one for place, one in enumerate(chosen) if place not in refused], list(refused.values())


def _fullest(pairs: list[Pair], places: list[int]) -> int:
    # of two patients who share all their photographs, one then keeps all of them
    def order(place: int) -> tuple[int, int, str, int]:
        known = pairs[place][1]
        missing = known.labels.count(None)
        return missing, sealed_rank(known.split or "train"), known.patient, place

    return min(places, key=order)


def _differing(known: list[Known], names: tuple[str, ...]) -> str:
    phrases = []
    for column, values in enumerate(zip(*(one.labels for one in known), strict=True)):
        different = sorted({value for value in values if value is not None})
        if len(different) > 1:
            name = names[column] if column < len(names) else f"label {column + 1}"
            phrases.append(f"`{name}` {' and '.join(map(str, different))}")
    return ", ".join(phrases)


def _refusal(pair: Pair, code: str, reason: str) -> Refusal:
    image, known = pair
    plain = refusal_of(image, code, reason, known.line)
    return replace(plain, pixel_sha256=image.pixel_sha256, patient=known.patient)
