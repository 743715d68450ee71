"""Signs of life: figures of the machine, the heartbeat that a run's tag holds, and what a last one tells."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.endings import FAILURE_TAG

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

HEARTBEAT_TAG = "hilum.heartbeat"
SILENT_S = 15 * 60.0
"""A run of another machine that said nothing for so long is taken for dead."""
SCARCE = 0.05
"""Share of memory below which a process that was killed was likely killed for it."""


class Gauges:
    """Samples of processor, memory, disk and, where there is one, GPU; ``system/...`` metrics."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

        gpu = _gpu_monitor()
        self._monitors = [CPUMonitor(), DiskMonitor(), *([gpu] if gpu is not None else [])]

    def read(self) -> dict[str, float]:
        """Return what the machine shows now (processor: since the last call)."""
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= {f"system/{key}": float(v) for key, v in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found


def heartbeat() -> str:
    """Return the time and the memory of process and machine, as a tag's value (JSON)."""
    import psutil

    used, limit = memory()
    return json.dumps(
        {
            "at": round(time.time()),
            "process_mb": psutil.Process().memory_info().rss >> 20,
            "used_mb": used >> 20,
            "limit_mb": limit >> 20,
            "oom_kills": oom_kills(),
        }
    )


def memory() -> tuple[int, int]:
    """Return bytes in use and the limit that holds here: the container's, or the machine's."""
    import psutil

    machine = psutil.virtual_memory()
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if 0 < limit < machine.total and used >= 0:
        # what the kernel can drop at once (files that were read) is no need for memory
        droppable = _counts(group / "memory.stat").get("inactive_file", 0)
        return max(0, used - droppable), limit
    return machine.total - machine.available, machine.total


def oom_kills() -> int:
    """Return how many processes the kernel ended for want of memory; -1 where it doesn't say."""
    counts = [
        _counts(Path(file)).get("oom_kill", -1)
        for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat")
    ]
    return max(counts)


def last_words(text: str, *, same_machine: bool) -> str:
    """Return what a dead run's last heartbeat tells about its end; nothing if it told nothing."""
    beat = _beat(text)
    if beat is None:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(beat["at"]))
    used, limit = beat["used_mb"] / 1024, beat["limit_mb"] / 1024
    words = (
        f"last sign of life {at}: memory at {used:.1f} of {limit:.1f} GB, "
        f"{beat['process_mb'] / 1024:.1f} GB of it this process"
    )
    grown = same_machine and 0 <= beat["oom_kills"] < oom_kills()
    if grown:
        words += "; the kernel has since ended a process here for want of memory"
    if grown or used > (1 - SCARCE) * limit:
        words += "; if this one, a smaller learning.batch helps"
    return words


def revive(client: "MlflowClient", run_id: str) -> None:
    """Say that a run lives which somebody may have taken for dead while its store was away."""
    found = client.get_run(run_id)
    if found.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    if FAILURE_TAG in found.data.tags:
        client.delete_tag(run_id, FAILURE_TAG)
    client.set_tag(run_id, HEARTBEAT_TAG, heartbeat())


def is_silent(text: str) -> bool:
    """Return whether a heartbeat is too old for its run to be alive."""
    beat = _beat(text)
    return beat is not None and time.time() - beat["at"] > SILENT_S


def _beat(text: str) -> dict[str, Any] | None:
    try:
        beat = json.loads(text)
        return {key: int(beat[key]) for key in ("at", "process_mb", "used_mb", "limit_mb")} | {
            "oom_kills": int(beat.get("oom_kills", -1))
        }
    except (ValueError, KeyError, TypeError):
        return None


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return -1  # no such limit, or "max"


def _counts(file: Path) -> dict[str, int]:
    try:
        pairs = [line.split() for line in file.read_text().splitlines()]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):
        return {}


def _gpu_monitor() -> Any:
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    for kind in (GPUMonitor, ROCMMonitor):
        try:
            return kind()
        except (ImportError, RuntimeError):
            continue  # no library for it, or no such GPU here
    return None
