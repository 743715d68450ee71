"""The service's log: one JSON object per line on stderr, and never a name, an identifier or a path of a file.

Only the keys that the service itself passes are written. A fault's message is left out, because a
decoder may quote what it was given; its type and the places in the code are enough to find it.
"""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

_ROOT = Path(__file__).resolve().parents[2]


class Journal:
    """Writes JSON lines to ``stream``."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def write(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """Write one line: time (UTC), level, event and ``facts``."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "level": level, "event": event, **facts})
        # one write per line: lines of several threads must not mix
        stream = sys.stderr if self._stream is None else self._stream
        stream.write(line + "\n")
        stream.flush()

    def fault(self, error: BaseException, **facts: Any) -> None:
        """Write a fault: its type and its places in the code, not its message."""
        places = [
            f"{_short(frame.filename)}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-12:]
        ]
        self.write("fault", level="error", error=type(error).__name__, places=places, **facts)


class _Forwarder(logging.Handler):
    """Passes on what the HTTP server says about itself."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        # the message's arguments may quote a request line: only the fixed text is kept
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._journal.fault(error, source=record.name)
        else:
            self._journal.write(
                "server", level=record.levelname.lower(), source=record.name, text=str(record.msg)
            )


def adopt_server_log(journal: Journal) -> None:
    """Send the HTTP server's own warnings and errors through ``journal``."""
    logger = logging.getLogger("uvicorn")
    logger.handlers = [_Forwarder(journal)]
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def _short(filename: str) -> str:
    path = Path(filename)
    if path.is_relative_to(_ROOT):
        return str(path.relative_to(_ROOT))
    return "/".join(path.parts[-2:])
