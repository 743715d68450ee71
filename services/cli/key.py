"""The key of the pseudonyms: from the environment, a file, or made once for this person."""

import os
import secrets
from pathlib import Path

from data_schemas.errors import UsageError
from services.cli.console import Console

_SHORTEST_KEY = 16


def pseudonym_key(file: Path | None, console: Console) -> bytes:
    """Return the key of the pseudonyms; create one if nobody gave any.

    Raises
    ------
    UsageError
        If the file can't be read or the key is too short.
    """
    text = os.environ.get("HILUM_PSEUDONYM_KEY", "")
    where = "HILUM_PSEUDONYM_KEY"
    if file is not None or not text:
        path = file or Path.home() / ".hilum" / "pseudonym.key"
        where = str(path)
        if file is None and not path.exists():
            _create_key(path)
            console.say(
                f"created the key of the patients' pseudonyms: {path} (keep it, and secret)"
            )
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("the key file can't be read", where=where) from error
    if len(text) < _SHORTEST_KEY:
        raise UsageError(f"the key has fewer than {_SHORTEST_KEY} characters", where=where)
    return text.encode()


def _create_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
