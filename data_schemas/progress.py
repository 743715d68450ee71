"""How long work tells its caller how far it is, without knowing who listens."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done now)."""


def silent(done: int, total: int, note: str) -> None:
    """Listen to nothing."""
