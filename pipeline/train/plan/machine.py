"""What this machine offers a training: cores, memory within its cgroups, processors, libraries."""

import importlib.metadata
import platform
from pathlib import Path

import psutil
import torch

from data_schemas.fingerprint import Gpu, Machine
from data_schemas.version import our_version
from pipeline.model.cores import available_cores
from pipeline.train import published

_LIBRARIES = ("torch", "torchvision", "timm", "monai", "numpy")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")


def measure_machine() -> Machine:
    """Return what a training may use here."""
    return Machine(
        cores=available_cores(),
        memory_bytes=available_memory(),
        bf16=_processor_has_bf16(),
        gpu=_gpu(),
        versions=_versions(),
        pretrained=pretrained_here(),
    )


def memory_for(device: torch.device) -> int:
    """Return the bytes that a new training may take on ``device`` now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return available_memory()


def available_memory(cgroups: Path = _CGROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the bytes of memory that can still be taken: by the machine, or less by a cgroup.

    Sources: Linux's MemAvailable; cgroup v2 ``memory.max`` and ``memory.current``, v1
    ``memory.limit_in_bytes`` and ``memory.usage_in_bytes``. File pages that aren't in use
    (``inactive_file``) don't count as taken: the kernel gives them up first.
    """
    rooms = [_room(folder) for folder in _groups(cgroups, own_groups)]
    return int(min([psutil.virtual_memory().available, *(room for room in rooms if room >= 0)]))


def _groups(cgroups: Path, own_groups: Path) -> list[Path]:
    """Return the folders of the memory groups that this process is in, from its own up."""
    folders = [cgroups, cgroups / "memory"]  # inside a container its own group is the root
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon or controllers not in ("", "memory"):
            continue
        root = cgroups if not controllers else cgroups / "memory"
        below = root / path.strip("/")
        folders += [below, *(up for up in below.parents if root in up.parents)]
    return folders


def _room(folder: Path) -> int:
    # -1: no limit is set here
    for limit_name, usage_name, idle_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (folder / limit_name).read_text().strip()
            usage = int((folder / usage_name).read_text())
            if limit == "max":
                return -1
            return max(0, int(limit) - usage + _idle(folder / "memory.stat", idle_name))
        except (OSError, ValueError):
            continue
    return -1


def _idle(stat: Path, name: str) -> int:
    try:
        rows = (line.split() for line in stat.read_text().splitlines())
        return next((int(row[1]) for row in rows if len(row) > 1 and row[0] == name), 0)
    except (OSError, ValueError):
        return 0


def _processor_has_bf16() -> bool:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        check = getattr(torch.cpu, name, None)
        if check is not None and check():
            return True
    try:
        words = set(_CPUINFO.read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})  # the last one is what ARM calls it


def _gpu() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return Gpu(
        name=facts.name, memory_bytes=facts.total_memory, bf16=torch.cuda.is_bf16_supported()
    )


def _versions() -> dict[str, str]:
    found = {"hilum": our_version(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pretrained_here() -> tuple[str, ...]:
    """Return the backbones whose ImageNet weights, and the library that builds them, are installed."""
    return published.here()
