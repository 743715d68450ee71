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
        self._started = time.monotonic()
        self._last_plain = 0.0

    def say(self, text: str) -> None:
        """Print a remark for a person (stderr, so that stdout holds results only)."""
        self._close_bar()
        print(text, file=sys.stderr, flush=True)

    def result(self, text: str, tree: dict[str, Any]) -> None:
        """Print the result: ``text`` for a person, ``tree`` as JSON with ``--json``."""
        self._close_bar()
        print(json.dumps(tree, indent=2) if self.as_json else text, flush=True)

    def progress(self, done: int, total: int, note: str) -> None:
        """Show a bar with the time left on a terminal, a plain line now and then elsewhere."""
        if self._live:
            if self._bar is None or self._bar.total != total:
                self._close_bar()
                self._bar = tqdm(total=total, leave=False, file=sys.stderr)
            self._bar.set_description(note, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if done <= 1:
            self._started = now
        if now - self._last_plain < self.PLAIN_EVERY_S and done < total:
            return
        self._last_plain = now
        left = (now - self._started) / done * (total - done) if done else 0.0
        print(f"{note}: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)

    def error(self, error: HilumError) -> None:
        """Print an error of ours: what, where and how to mend it."""
        self._close_bar()
        print(f"error: {error}", file=sys.stderr, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
