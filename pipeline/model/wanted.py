"""What an answer may carry beside the score itself."""

from dataclasses import dataclass


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


SCORE_ALONE = Wanted()
ALL_EVIDENCE = Wanted(arrays=True, pictures=True)
