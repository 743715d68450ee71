"""What a command prints: results to stdout, progress and remarks to stderr, JSON on request."""

import json
import sys
import time
from typing import Any

from tqdm import tqdm

from data_schemas.errors import HilumError


class Console:
    """The door's voice. One object per command run.

    Parameters
    ----------
    as_json
        Print one JSON object with the result and nothing else on stdout.
    """

    PLAIN_EVERY_S = 5.0

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._live = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._total = self._done = self._first = 0
        self._started = self._last_plain = time.monotonic()

    def say(self, text: str) -> None:
        """Print a remark for a person (stderr, so that stdout holds results only)."""
        self._close_bar()
        print(text, file=sys.stderr, flush=True)

    def result(self, text: str, tree: dict[str, Any]) -> None:
        """Print the result: ``text`` for a person, ``tree`` as JSON with ``--json``."""
        self._close_bar()
        print(json.dumps(tree, indent=2) if self.as_json else text, flush=True)

    def progress(self, done: int, total: int, note: str) -> None:
        """Show a bar with rate and time left on a terminal, a plain line now and then elsewhere.

        The first call of a kind says what was done before: it doesn't count into the rate.
        """
        now = time.monotonic()
        grows = done == total != self._total  # nobody knows yet how many there are
        if done < self._done or (total != self._total and not grows):
            self._close_bar()
            self._first, self._started, self._last_plain = done, now, now
        self._done, self._total = done, total
        if self._live:
            if self._bar is None:
                self._bar = tqdm(total=total, initial=done, leave=False, file=sys.stderr)
            self._bar.total = total
            self._bar.set_description(note, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        if now - self._last_plain < self.PLAIN_EVERY_S and (done < total or grows):
            return
        self._last_plain = now
        rate = (done - self._first) / max(now - self._started, 1e-3)
        left = f", {rate:.1f}/s" if done > self._first else ""
        if done < total and rate:
            left += f", about {_duration((total - done) / rate)} left"
        print(f"{note}: {done:,}/{total:,}{left}", file=sys.stderr, flush=True)

    def error(self, error: HilumError) -> None:
        """Print an error of ours: what, where and how to mend it."""
        self._close_bar()
        print(f"error: {error}", file=sys.stderr, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _duration(seconds: float) -> str:
    """Return a time that a person can grasp: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
