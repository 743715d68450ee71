"""Files kept open between two reads, so that an archive's directory is parsed once in each process."""

import atexit
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

_MOST = 8

Opened = Callable[[ExitStack], Any]
"""Opens something and puts whatever must be closed later on the stack."""


@dataclass(slots=True)
class _Entry:
    thing: Any
    stack: ExitStack
    lock: Lock = field(default_factory=Lock)
    closed: bool = False


class _Kept:
    """The last few opened things of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process = os.getpid()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def entry(self, key: Hashable, opened: Opened) -> _Entry:
        with self._lock:
            if self._process != os.getpid():
                # a forked child shares its parent's file positions: it opens its own
                self._process = os.getpid()
                self._entries = OrderedDict()
            if key not in self._entries:
                with ExitStack() as stack:
                    thing = opened(stack)
                    self._entries[key] = _Entry(thing, stack.pop_all())
                while len(self._entries) > _MOST:
                    self._close(self._entries.popitem(last=False)[1])
            self._entries.move_to_end(key)
            return self._entries[key]

    def close(self) -> None:
        while self._entries:
            self._close(self._entries.popitem()[1])

    @staticmethod
    def _close(entry: _Entry) -> None:
        # whoever is reading finishes first
        with entry.lock, suppress(OSError):
            entry.closed = True
            entry.stack.close()


_KEPT = _Kept()
atexit.register(_KEPT.close)


@contextmanager
def kept(key: Hashable, opened: Opened) -> Iterator[Any]:
    """Yield what ``opened`` returned for ``key``, to this caller alone; it stays open for the next."""
    while True:
        entry = _KEPT.entry(key, opened)
        with entry.lock:
            if entry.closed:
                continue  # pushed out between the two lines above
            yield entry.thing
            return
