"""When a fit is written down, and where it stops: between two steps, at every process together."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.tracking import endings
from pipeline.train import checkpoint
from pipeline.train.loop import Training
from pipeline.train.state import StateFolder, identity
from pipeline.train.world import World


class Keeper:
    """The loop's ``keep``. Only the first process has a folder; the others tell it their part."""

    def __init__(
        self, state: StateFolder | None, world: World, minutes: float, asked: endings.Asked
    ) -> None:
        self._state, self._world, self._asked = state, world, asked
        self._every_s = 60 * minutes
        self._last = time.monotonic()
        self._written = (0, 0)

    def restore(self, training: Training) -> None:
        """Put the newest checkpoint, if there is one, into ``training`` at every process.

        Raises
        ------
        TrainingError
            If it is of another run, plan or data set.
        """
        data = self._world.hand_out(self._state.newest() if self._state is not None else b"")
        if data:
            facts = checkpoint.unpack(training, self._world, data)
            if self._state is not None:
                self._state.went_on_from(facts)
            self._written = (training.epoch, training.step)

    def __call__(self, training: Training) -> None:
        """Write a checkpoint if it is time, and stop if somebody asked for it."""
        late = time.monotonic() - self._last >= self._every_s
        due = self._state is not None and (training.step == 0 or late)
        due, stop = self._world.either(due, bool(self._asked.number))
        if due or stop:
            self._keep(training)
        if stop:
            raise self._asked.error()

    def _keep(self, training: Training) -> None:
        self._last = time.monotonic()
        place = (training.epoch, training.step)
        if place == self._written:
            return
        self._written = place
        own = checkpoint.generators_of(self._world.device)
        each = {name: self._world.gather(state) for name, state in own.items()}
        if self._state is None:
            return
        ranks = [{name: each[name][rank] for name in each} for rank in range(self._world.size)]
        facts = {**identity(self._state.begun), "seconds": self._state.spent_s}
        self._state.write(checkpoint.pack(training, ranks, facts), *place)


@contextmanager
def keeper(state: StateFolder | None, world: World, minutes: float) -> Iterator[Keeper]:
    """Open a keeper for one fit. Stop signals wait until the step they come in is done."""
    with endings.noted() as asked:
        yield Keeper(state, world, minutes, asked)
