"""Make, list and revoke the API keys of a service; it takes up changes within a second.

    hilum keys add pacs-1 --file keys.json --scope score --days 365
    hilum keys list --file keys.json
    hilum keys revoke 1a2b3c4d --file keys.json

`add` prints the key once, on stdout: the file holds only a salted hash of it. Scopes: score (score
images, read about the model), metrics (read /metrics), admin (everything). To change a key, add a
second one, hand it out, revoke the first. HILUM_KEYS_FILE names the file, too.
"""

import argparse
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from data_schemas.errors import UsageError
from data_schemas.keys import SCOPES, ApiKey, KeyRing, new_key
from services.cli.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("action", choices=("add", "list", "revoke"))
    parser.add_argument(
        "name", nargs="?", help="add: who or what the key is for; revoke: the key's id"
    )
    parser.add_argument("--file", type=Path, help="the key ring (default: HILUM_KEYS_FILE)")
    parser.add_argument(
        "--scope",
        action="append",
        choices=tuple(SCOPES),
        help="may be given again (default: score)",
    )
    parser.add_argument("--days", type=float, help="how long the key is valid (default: for good)")
    parser.add_argument("--rate", type=float, help="requests a second (default: the service's)")


def run(options: argparse.Namespace, console: Console) -> int:
    """Change or show the key ring."""
    named = options.file or os.environ.get("HILUM_KEYS_FILE", "")
    if not named:
        raise UsageError("no key ring is named", where="--file", mend="--file keys.json")
    path = Path(named)
    if options.action == "list":
        _list(path, console)
        return 0
    if not options.name:
        raise UsageError("who is the key for, or which one?", where="NAME")
    if options.action == "add":
        _add(path, options, console)
    else:
        _revoke(path, options.name, console)
    return 0


def _add(path: Path, options: argparse.Namespace, console: Console) -> None:
    if any(value is not None and not value > 0 for value in (options.days, options.rate)):
        raise UsageError("must be greater than 0", where="--days, --rate")
    end = None
    if options.days is not None:
        end = (datetime.now(UTC) + timedelta(days=options.days)).replace(microsecond=0)
    scopes = tuple(dict.fromkeys(options.scope or ("score",)))
    key, text = new_key(options.name, scopes, expires=end, rate=options.rate)
    with _changing(path) as keys:
        keys.append(key)
    console.say(f"the key of {key.name}, id {key.id}; it is shown only now:")
    console.result(text, {"key": text, **key.model_dump(mode="json", exclude={"salt", "digest"})})


def _list(path: Path, console: Console) -> None:
    now = datetime.now(UTC)
    lines, trees = [], []
    for key in KeyRing.read_json(path).keys:
        end = "for good" if key.expires is None else f"until {key.expires:%Y-%m-%d %H:%M}"
        state = "expired" if key.has_expired(now) else end
        lines.append(f"{key.id}  {','.join(key.scopes):<20}{state:<24}{key.name}")
        trees.append(key.model_dump(mode="json", exclude={"salt", "digest"}))
    console.result("\n".join(lines) or "no keys", {"keys": trees})


def _revoke(path: Path, name: str, console: Console) -> None:
    with _changing(path) as keys:
        left = [key for key in keys if key.id != name]
        if len(left) == len(keys):
            raise UsageError(f"there is no key with the id {name!r}", where=path)
        keys[:] = left
    console.result(f"revoked {name}", {"revoked": name})


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # the file itself is replaced, so the lock lies beside it
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        keys = list(KeyRing.read_json(path).keys) if path.exists() else []
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        yield keys
        KeyRing(keys=tuple(keys)).write_json(path)
        path.chmod(mode)
    finally:
        os.close(handle)
