"""How far a training is: the epochs and steps of its networks, one after another, as one count."""

from dataclasses import dataclass

from pipeline.train.task import Task


@dataclass(frozen=True)
class Leg:
    """One network's part of the way."""

    epochs: int
    steps: int  # of an epoch
    weight: int  # what a step counts: a network that sees larger images takes longer for one


class Course:
    """All networks of a task in the order in which they are trained."""

    def __init__(self, task: Task) -> None:
        images = len(task.rows["train"])
        plans = task.plan.each()
        sights = [
            plan.learning.batch * (plan.network.size or task.info.size) ** 2 for plan in plans
        ]
        self.legs = tuple(
            Leg(
                plan.learning.epochs,
                max(1, round(images / plan.learning.batch)),
                max(1, round(sight / min(sights))),
            )
            for plan, sight in zip(plans, sights, strict=True)
        )

    @property
    def epochs(self) -> int:
        """Epochs of all networks."""
        return sum(leg.epochs for leg in self.legs)

    @property
    def total(self) -> int:
        """What all steps count together."""
        return sum(leg.epochs * leg.steps * leg.weight for leg in self.legs)

    def steps(self, epoch: int) -> int:
        """Return the steps of an epoch; epochs count from 1 through all networks."""
        return self._at(epoch)[1].steps

    def done(self, epoch: int, step: int) -> int:
        """Return what the steps up to ``step`` of ``epoch`` count together."""
        place, leg, before = self._at(epoch)
        earlier = sum(one.epochs * one.steps * one.weight for one in self.legs[:place])
        return earlier + ((epoch - 1 - before) * leg.steps + step) * leg.weight

    def _at(self, epoch: int) -> tuple[int, Leg, int]:
        before = 0
        for place, leg in enumerate(self.legs[:-1]):
            if epoch <= before + leg.epochs:
                return place, leg, before
            before += leg.epochs
        return len(self.legs) - 1, self.legs[-1], before
