"""Closes runs whose process died without a word (SIGKILL, power), and says what is known of its end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking import endings, vitals

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

OUTBOX_TAG = "hilum.outbox"
"""Where what a run logs waits, if its store is away."""


def close_dead_runs(client: "MlflowClient", experiment_id: str) -> None:
    """Set the experiment's runs whose process is gone, or was silent for too long, to FAILED."""
    page = None
    while page is None or page:
        found = client.search_runs(
            [experiment_id],
            filter_string="attributes.status = 'RUNNING' and tags.`hilum.host` LIKE '%'",
            page_token=page or None,
        )
        for run in found:
            close_if_dead(client, run)
        page = found.token or ""


def close_if_dead(client: "MlflowClient", run: Any) -> bool:
    """Set one RUNNING run to FAILED if it is known to be dead; return whether it was."""
    tags = run.data.tags
    why = _death(tags)
    if not why:
        return False
    words = vitals.last_words(
        tags.get(vitals.HEARTBEAT_TAG, ""), same_machine=tags.get("hilum.host") == endings.host()
    )
    box = tags.get(OUTBOX_TAG, "")
    if box and Path(box).is_dir():
        words += f"; what it logged last waits: hilum send {Path(box).parent}"
    text = f"{why}; {words}" if words else why
    client.set_tag(run.info.run_id, endings.FAILURE_TAG, text.replace("; ;", ";"))
    client.set_terminated(run.info.run_id, status="FAILED")
    return True


def _death(tags: dict[str, str]) -> str:
    if tags.get("hilum.host") == endings.host():
        gone = endings.is_gone(tags.get("hilum.process", ""))
        return "its process ended without a word (SIGKILL or power)" if gone else ""
    # of another machine, or of this one before it was started anew: only its silence tells
    if vitals.is_silent(tags.get(vitals.HEARTBEAT_TAG, "")):
        return "its process, on another machine or before this one's restart, went silent"
    return ""
