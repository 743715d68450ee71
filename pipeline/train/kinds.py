"""Two kinds of networks in one ensemble: maps that must match, and errors that name the right settings."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_schemas.errors import TrainingError
from data_schemas.plan import Beside, Plan
from pipeline.train import networks

_KEY = re.compile(r"\b(?:network|learning)\.(\w+)")


def refuse_unlike_maps(plan: Plan, outputs: int, size: int) -> None:
    """Refuse kinds whose evidence maps, of stored images of ``size``, can't be averaged cell by cell.

    Raises
    ------
    TrainingError
        If they differ, or there is no such network.
    """
    kinds = plan.kinds()
    if len(kinds) == 1:
        return
    sides = []
    for place, kind in enumerate(kinds):
        with naming_its_settings(second=place > 0):
            sides.append(networks.build(kind.network, outputs, size).cells(size))
    if len(set(sides)) > 1:
        backbones = [kind.network.backbone for kind in kinds]
        told = ", ".join(f"{n} {k} x {k}" for n, k in zip(backbones, sides, strict=True))
        raise TrainingError(
            f"the evidence maps of its networks differ: {told} cells",
            where="beside.size",
            mend=f"give a size and a stride that make {sides[0]} cells a side, such as "
            f"beside.size={plan.beside.stride * sides[0]}",
        )


@contextmanager
def naming_its_settings(
    *, second: bool, told: Callable[[Exception], TrainingError | None] = lambda _: None
) -> Iterator[None]:
    """Let errors about the second kind of network name `beside`: it is built and fitted as if alone.

    ``told`` makes an error of ours of what a library raises, or returns ``None``.
    """
    try:
        yield
    except Exception as error:
        ours = error if isinstance(error, TrainingError) else told(error)
        if not second or ours is None:
            raise
        ours.where, ours.mend = _of_beside(ours.where), _of_beside(ours.mend)
        if ours is error:
            raise
        raise ours from error


def _of_beside(text: str | None) -> str | None:
    def key(found: re.Match[str]) -> str:
        return f"beside.{found[1]}" if found[1] in Beside.model_fields else found[0]

    return None if text is None else _KEY.sub(key, text)
