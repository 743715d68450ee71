"""A sound image of a kind that the contract doesn't take: to be answered when scored, not refused.

Ingestion refuses such a file, because it must not be learned from. Whoever asks for a score gets an
answer: the file is an image, and the model wasn't made for it. What can't be decoded stays a refusal.
"""

from dataclasses import replace

import numpy as np

from data_schemas.contract import Contract
from data_schemas.errors import ImageError
from data_schemas.score import QualityAnswer
from pipeline.imaging.instance import Instance, Prepared
from pipeline.imaging.prepare import prepare
from pipeline.imaging.read import read

OTHER_KIND = ("WRONG_MODALITY", "WRONG_VIEW", "WRONG_PRESENTATION", "NOT_COLOUR")
"""Refusal codes that are about what the image shows or how it was taken, not about its file."""


def read_any_kind(data: bytes, contract: Contract) -> Instance:
    """Decode as :func:`read` does; an image of another kind is decoded, too, and says so in ``outside``.

    Raises
    ------
    ImageError
        If the bytes can't be decoded, or not under the contract's limits and formats.
    """
    try:
        return read(data, contract)
    except ImageError as refused:
        if refused.code not in OTHER_KIND:
            raise
        return replace(read(data, _any_kind(contract)), outside=refused.what)


def prepare_any_kind(instance: Instance, contract: Contract) -> Prepared:
    """Prepare as :func:`prepare` does; of another kind there is no array, and ``outside`` says why.

    Raises
    ------
    ImageError
        BLANK if there is no content or no field of view.
    """
    if instance.outside:
        return _unprepared(instance, contract, instance.outside)
    try:
        return prepare(instance, contract)
    except ImageError as refused:
        if refused.code not in OTHER_KIND:
            raise
        return _unprepared(instance, contract, refused.what)


def _any_kind(contract: Contract) -> Contract:
    # one frame is proof enough that the object can be decoded
    accept = contract.accept.model_copy(
        update={
            "modalities": (),
            "views": (),
            "presentation": "any",
            "colour": "any",
            "frames": "first",
            "frames_by_class": {},
        }
    )
    return contract.model_copy(update={"accept": accept})


def _unprepared(instance: Instance, contract: Contract, why: str) -> Prepared:
    nothing = np.zeros((0, 0, contract.channels), np.uint8)
    region = (0, 0, instance.rows, instance.columns)
    return Prepared(nothing, region, QualityAnswer(), instance.warnings, why)
