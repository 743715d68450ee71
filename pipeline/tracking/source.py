"""Which code and which process a run comes from: its first tags."""

import shutil
import subprocess
from pathlib import Path

from data_schemas.version import our_version
from pipeline.tracking import endings, vitals


def process_tags() -> dict[str, str]:
    """Return tags by which others can tell whether the process that writes a run still lives."""
    return {**endings.process_tags(), vitals.HEARTBEAT_TAG: vitals.heartbeat()}


def source_tags() -> dict[str, str]:
    """Return tags that say which hilum made a run."""
    tags = {
        "hilum.version": our_version(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "hilum",
    }
    commit = git_commit()
    return {**tags, "mlflow.source.git.commit": commit} if commit else tags


def git_commit() -> str:
    """Return the commit of the tree that this code runs from, empty for an installed package."""
    git = shutil.which("git")
    root = Path(__file__).resolve().parents[2]
    if git is None or not (root / ".git").exists():
        return ""
    words = [git, "-C", str(root), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
