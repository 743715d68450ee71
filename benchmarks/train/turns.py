"""Work in processes of their own that take turns: none shares another's memory or settings."""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

Make = Callable[..., Callable[[], object]]


@dataclass
class Times:
    """CPU and wall seconds of each round, and what the work answered."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


def in_turn(variants: dict[str, tuple[Any, ...]], rounds: int) -> dict[str, Times]:
    """Return every round's times of each variant ``(make, *arguments)``, after an unmeasured one.

    ``make(*arguments)`` returns the work; it is called in the variant's own process.
    """
    found = {name: Times() for name in variants}
    with contextlib.ExitStack() as closing:
        lines = {name: closing.enter_context(_process(words)) for name, words in variants.items()}
        for turn in range(rounds + 1):
            for name, line in lines.items():
                line.send(True)
                try:
                    cpu, wall, answer = line.recv()
                except EOFError as error:
                    raise RuntimeError(f"the process of `{name}` died in round {turn}") from error
                if turn:
                    found[name].cpu.append(cpu)
                    found[name].wall.append(wall)
                    found[name].answers.append(answer)
    return found


def ratio(slow: Times, fast: Times) -> float:
    """Return how much more CPU time one variant takes: median of the rounds' own ratios.

    Rounds are neighbours in time, so what else the machine does weighs on both.
    """
    return statistics.median(one / other for one, other in zip(slow.cpu, fast.cpu, strict=True))


@contextlib.contextmanager
def _process(words: tuple[Any, ...]) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there, words), daemon=True)
    child.start()
    there.close()
    try:
        yield here
        here.send(False)
    finally:
        child.join(timeout=20)
        child.kill()


def _serve(line: Connection, words: tuple[Any, ...]) -> None:
    make, *arguments = words
    work = make(*arguments)
    while line.recv():
        cpu, wall = time.process_time(), time.perf_counter()
        answer = work()
        line.send((time.process_time() - cpu, time.perf_counter() - wall, answer))
