"""Laterality that contradicts the picture: fundus photographs whose optic disc lies on the other side."""

import numpy as np
from numpy.typing import NDArray

from data_schemas.leaks import LeakFinding
from pipeline.ingest.leaks.images import Images

Floats = NDArray[np.float64]

SURE = 0.6
"""Least size of an answer of ``disc_side`` that may contradict. On 596 photographs of 299 patients the
right sides go down to nothing, but no wrong answer except the two swapped eyes is beyond 0.2."""

_MANY = 0.10
_SIGN = {"L": -1.0, "R": 1.0}


def contradicting_sides(images: Images, disc: Floats) -> tuple[list[LeakFinding], str]:
    """Return the findings, and one sentence on how often picture and label agree.

    Parameters
    ----------
    disc
        :func:`pipeline.ingest.leaks.disc.disc_side` of every image.
    """
    said = np.array([_SIGN.get(str(side), 0.0) for side in images.laterality])
    asked = np.flatnonzero(said)
    sure = asked[np.abs(disc[asked]) >= SURE]
    wrong = sure[np.sign(disc[sure]) != said[sure]]
    right = int((np.sign(disc[asked]) == said[asked]).sum())
    note = (
        f"laterality: the optic disc's side agrees in {right} of {len(asked)} photographs, "
        f"surely contradicts in {len(wrong)}"
    )
    if len(wrong) > _MANY * len(sure):
        sentence = (
            f"the optic disc lies on the other side in {len(wrong)} of {len(sure)} photographs: "
            "the sides are swapped throughout, or the pictures are mirrored"
        )
        share = round(len(wrong) / len(sure), 4)
        return [images.finding("laterality", wrong[:50].tolist(), sentence, value=share)], note
    return _by_patient(images, disc, wrong), note


def _by_patient(images: Images, disc: Floats, wrong: NDArray[np.int64]) -> list[LeakFinding]:
    findings = []
    # patients of whom all eyes contradict come first: nothing but a swap does that
    for patient in np.unique(images.patient[wrong]):
        places = sorted(wrong[images.patient[wrong] == patient], key=lambda k: -abs(disc[k]))
        own = np.flatnonzero(images.patient == patient)
        both = len(places) > 1 and len(places) == len(own)
        named = ", ".join(images.named(k) for k in places)
        what = (
            f"both eyes of patient {patient} seem to be swapped: in {named} the optic disc lies on "
            "the side of the other eye"
            if both
            else f"{named} of patient {patient} is called {images.laterality[places[0]]}, but its "
            "optic disc lies on the side of the other eye"
        )
        value = round(min(abs(float(disc[k])) for k in places), 4)
        sentence = f"{what}: look at the picture and mend `laterality` in the label table"
        findings.append((both, images.finding("laterality", [int(k) for k in places], sentence, value=value)))  # fmt: skip
    return [finding for _, finding in sorted(findings, key=lambda pair: not pair[0])]
