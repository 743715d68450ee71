"""How many cores this process may use: its affinity and its control group's quota, not the host's count."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Return the cores this process may use, at least 1.

    The quota is read from ``cpu.max`` (control groups v2) or ``cpu.cfs_quota_us`` and
    ``cpu.cfs_period_us`` (v1); a container with 1.5 cores gets 2 threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(cgroup)
    return max(1, math.ceil(min(cores or 1, quota)))


def _quota(cgroup: Path) -> float:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        cores = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf  # "max": no quota
    return cores if cores > 0 else math.inf
