"""The service's log: one JSON object per line on stderr, and never a name, an identifier or a path of a file.

Only the keys that the service itself passes are written. A fault's message is left out, because a
decoder may quote what it was given; its type and the places in the code are enough to find it.
"""

import json
import logging
import sys
import traceback
from contextlib import suppress
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
        # a disk without room for the log is no reason to refuse an image
        with suppress(OSError):
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
    """Passes on that a library said something, and where; what, only of the HTTP server.

    Decoders and parsers quote what they were given, so their words stay out.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._journal.fault(error, source=record.name)
            return
        # of the server, too, only the fixed text: its arguments may quote a request line
        text = {"text": str(record.msg)} if record.name.startswith("uvicorn") else {}
        self._journal.write(
            "library",
            level=record.levelname.lower(),
            source=record.name,
            place=f"{_short(record.pathname)}:{record.lineno}",
            **text,
        )


def adopt_logs(journal: Journal) -> None:
    """Send every library's warnings and errors, and Python's warnings, through ``journal``."""
    logging.captureWarnings(capture=True)
    logging.basicConfig(handlers=[_Forwarder(journal)], level=logging.WARNING, force=True)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def _short(filename: str) -> str:
    path = Path(filename)
    if path.is_relative_to(_ROOT):
        return str(path.relative_to(_ROOT))
    return "/".join(path.parts[-2:])
