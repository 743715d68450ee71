"""Where the time of a large body goes: by stage and by process, beside the floor's stages."""

import re
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
from bodies import KINDS, bodies
from load import Floor, measure
from servers import Server
from timing import table

COUNT = 32
STAGES = ("receive", "decode", "prepare", "run", "answer")


def stages(server: Server, floor: Floor, out: Path, kinds: list[str]) -> str:
    """Return two tables: milliseconds of each stage, one image at a time, and CPU by process at 8."""
    times, spent = [], []
    for kind in kinds:
        files = bodies(out, kind)
        data = [file.read_bytes() for file in files]
        before = _sums(server)
        found = measure(server, data, COUNT, 1)
        after = _sums(server)
        own = {stage: (after[stage] - before[stage]) / COUNT for stage in STAGES}
        whole = sum(found.seconds) / COUNT
        row = [f"{1000 * own[stage]:.1f}" for stage in STAGES]
        rest = whole - sum(own.values())
        times.append((KINDS[kind], "ours", *row, f"{1000 * rest:.1f}", f"{1000 * whole:.1f}"))
        bare = floor.measure(files, COUNT, 1)
        row = ["", *(f"{1000 * value:.1f}" for value in bare.stages), "", ""]
        times.append((KINDS[kind], "floor", *row, f"{1000 * sum(bare.seconds) / COUNT:.1f}"))
        loaded = measure(server, data, COUNT, 8)
        roles = {"supervisor": 0.0, "worker": 0.0, "decoders": 0.0}
        for pid, seconds in loaded.by_process.items():
            roles[_role(server, pid)] += 1000 * seconds
        floored = 1000 * floor.measure(files, COUNT, 2).cpu
        spent.append(
            (
                KINDS[kind],
                *(f"{ms:.1f}" for ms in roles.values()),
                f"{1000 * loaded.cpu:.1f}",
                f"{floored:.1f}",
            )
        )
    head = ("body, wall ms, one at a time", "", *STAGES, "rest: wire, hand-over, waiting", "whole")
    by_process = (
        "body, CPU ms, 8 at once",
        "supervisor",
        "worker: HTTP, hand-over, run",
        "decoders",
        "ours",
        "floor",
    )
    return f"{table(head, times)}\n\n{table(by_process, spent)}"


def _sums(server: Server) -> dict[str, float]:
    place = urllib.parse.urlsplit(server.url)
    text = urllib.request.urlopen(f"http://{place.netloc}/metrics", timeout=10).read().decode()
    found = re.findall(r'hilum_stage_seconds_sum\{stage="(\w+)"\} (\S+)', text)
    return {stage: float(dict(found).get(stage, 0)) for stage in STAGES}


def _role(server: Server, pid: int) -> str:
    if pid == server.process.pid:
        return "supervisor"
    return "worker" if psutil.Process(pid).ppid() == server.process.pid else "decoders"
