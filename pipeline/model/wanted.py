"""What an answer may carry beside the score itself."""

from collections.abc import Callable
from dataclasses import dataclass

from data_schemas.score import Score
from pipeline.model.reference import Sight


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; nothing of it changes the score."""

    arrays: bool = False
    """Evidence maps as numbers, with their place on the original picture."""
    pictures: bool = False
    """Evidence maps drawn over the original picture."""
    embedding: bool = False
    points: bool = False
    """The state of every finding at every operating point of the card."""
    watch: Callable[[Score, Sight], None] | None = None
    """Told how the image compares with the model's own, if the network saw it and the package keeps a
    reference."""


SCORE_ALONE = Wanted()
ALL_EVIDENCE = Wanted(arrays=True, pictures=True)
