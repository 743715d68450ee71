"""Sends what a run logged while its store was away: ``hilum send``, and the start of a resumed run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import TrackingError
from pipeline.tracking import outbox
from pipeline.tracking.delivery import AwayError, Delivery, RefusedError, together
from pipeline.tracking.reaper import close_if_dead
from pipeline.tracking.store import answers, knock, open_client, translated


@dataclass(frozen=True, slots=True)
class Sent:
    """What :func:`send` brought to the store, and what the run says there now."""

    run_id: str
    uri: str
    letters: int
    refused: int
    status: str
    tags: dict[str, str]


def waiting_runs(folder: Path) -> list[Path]:
    """Return the run folders in which something waits: ``folder`` itself, or those right below it."""
    candidates = [folder, *(sorted(folder.iterdir()) if folder.is_dir() else [])]
    return [one for one in candidates if (outbox.box_of(one) / outbox.ABOUT).is_file()]


def send(run_folder: Path, uri: str = "", heard: Callable[[int], None] = lambda _n: None) -> Sent:
    """Bring all that waits in a run's folder to its store, in order; the outbox is gone then.

    May be stopped and started again at any moment: the store keeps what it gets twice once. A run
    that has no end among its letters, and whose process is gone, is FAILED afterwards.

    Parameters
    ----------
    run_folder
        ``.hilum/state/RUN_ID``.
    uri
        Where to; empty: where the run was begun.
    heard
        Called with the number of letters that still wait.

    Raises
    ------
    TrackingError
        If nothing waits there, a process has it open, or the store is away or has no such run.
    """
    box = outbox.box_of(run_folder)
    about = outbox.about(box)
    uri, run_id = uri or about["uri"], about["run_id"]
    if not answers(uri):
        knock(uri)  # says how to start it
    client = open_client(uri)
    with translated(uri):
        client.get_run(run_id)  # no letter may be refused because it came to the wrong store
    with outbox.opened(box, about) as letters:
        count, refused = _empty(letters, Delivery(uri, run_id, box), heard)
    with translated(uri):
        found = client.get_run(run_id)
        if found.info.status == "RUNNING":
            close_if_dead(client, found)
            found = client.get_run(run_id)
    return Sent(run_id, uri, count, refused, found.info.status, dict(found.data.tags))


def _empty(
    letters: outbox.Outbox, deliver: Delivery, heard: Callable[[int], None]
) -> tuple[int, int]:
    count = refused = 0
    while letters.waiting:
        heard(len(letters.waiting))
        parcel = together(letters.waiting) if not refused else [letters.waiting[0]]
        try:
            deliver(parcel)
        except AwayError as error:
            raise TrackingError(
                f"{error.what}; {len(letters.waiting)} letters still wait",
                where=error.where,
                mend="start the store, then send again",
            ) from error
        except RefusedError as error:
            refused += 1
            if len(parcel) == 1:
                letters.set_aside(parcel[0], error.what)
            continue
        letters.taken(parcel)
        count += len(parcel)
    heard(0)
    return count, refused
