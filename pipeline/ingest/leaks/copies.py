"""From pairs that are almost the same to findings: copies in another split, copies with other labels."""

from collections import defaultdict

from data_schemas.leaks import LeakFinding
from pipeline.ingest.leaks.images import Images
from pipeline.ingest.leaks.neighbours import Pair

_REMEDY = (
    "ingest again with --drop-near-duplicates, which refuses the copies outside {split}, or give "
    "both the same patient in the label table"
)
_PUBLISHED = "this split is a published one: figures without such images stand beside the official"
_SHOWN = 4


def across_splits(images: Images, pairs: list[Pair]) -> list[LeakFinding]:
    """Return one finding for every image that has copies in another split, the most alike first.

    The image named first is that of the more sealed split; its copies follow.
    """
    copies: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if images.pixel[pair.first] == images.pixel[pair.second]:
            continue  # equal pixels are another finding
        if images.leaks_between(pair.first, pair.second):
            copies[images.most_sealed((pair.first, pair.second))[0]].append(pair)
    findings = []
    for image, found in copies.items():
        found.sort(key=lambda pair: -pair.correlation)
        others = [pair.second if pair.first == image else pair.first for pair in found]
        best = found[0]
        shown = ", ".join(images.named(k) for k in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        mirrored = ", mirrored" if best.mirrored else ""
        split = str(images.split[image])
        remedy = _PUBLISHED if images.official else _REMEDY.format(split=split)
        sentence = (
            f"{images.named(image)} is almost the same picture as {shown}{more} "
            f"(correlation {best.correlation:.3f}{mirrored}): {remedy}"
        )
        findings.append(images.finding("near_duplicate", [image, *others], sentence, value=best.correlation))  # fmt: skip
    return sorted(findings, key=lambda f: (-(f.value or 0), f.source_sha256))


def with_other_labels(images: Images, pairs: list[Pair]) -> list[LeakFinding]:
    """Return one finding for every pair of copies whose known labels differ."""
    findings = []
    for pair in pairs:
        both = [pair.first, pair.second]
        differing = images.differing(both)
        if not differing or images.pixel[pair.first] == images.pixel[pair.second]:
            continue
        order = images.most_sealed(both)
        sentence = (
            f"{' and '.join(images.named(k) for k in order)} are almost the same picture "
            f"(correlation {pair.correlation:.3f}) with different labels: {', '.join(differing)}: "
            "look at both and mend the label table"
        )
        findings.append(images.finding("conflicting_label", order, sentence, value=pair.correlation))  # fmt: skip
    return findings
