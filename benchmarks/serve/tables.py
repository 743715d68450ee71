"""The tables of the serving benchmark, from its turns."""

from statistics import median

from bodies import KINDS
from timing import table

NAMES = {
    "ours": "hilum serve, fp32",
    "ours-bf16": "hilum serve, bf16",
    "ours-int8": "hilum serve, int8",
    "mlflow": "mlflow models serve, base64",
    "fastapi": "FastAPI + torch eager",
    "litserve": "LitServe, batches of 8",
    "floor": "floor: one process, no HTTP",
}
SMALL, LARGE = ("jpeg512", "png512"), ("jpeg6mp", "png6mp")
BARS = {
    ("ours", "floor"): {"jpeg512": 0.95, "jpeg6mp": 0.95, "png512": 0.95, "png6mp": 0.95, "dicom8mb": 0.80},
    ("ours", "mlflow"): {"jpeg512": 1.7, "jpeg6mp": 2.5},
    ("ours", "fastapi"): {"jpeg512": 1.7, "jpeg6mp": 2.5},
    ("ours", "litserve"): {"jpeg512": 2.0, "jpeg6mp": 3.0},
    ("ours-bf16", "mlflow"): {"jpeg512": 3.0, "jpeg6mp": 4.0},
    ("ours-bf16", "fastapi"): {"jpeg512": 3.0, "jpeg6mp": 4.0},
    ("ours-int8", "mlflow"): {"jpeg512": 5.0, "jpeg6mp": 5.5},
    ("ours-int8", "fastapi"): {"jpeg512": 5.0, "jpeg6mp": 5.5},
}  # fmt: skip


def speeds(turns: list[dict]) -> str:
    """Return one row for each body and server; a cell has one figure for each number at once."""
    at_once = sorted({turn["at_once"] for turn in turns})
    rows = []
    for kind in dict.fromkeys(turn["body"] for turn in turns):
        for name in [n for n in NAMES if any(n in t["servers"] for t in turns)]:
            cells = [_cell(turns, kind, name, number) for number in at_once]
            rows.append(
                (KINDS[kind], NAMES[name], *(" / ".join(part) for part in zip(*cells, strict=True)))
            )
    many = "/".join(map(str, at_once))
    loads = [turn["load"] for turn in turns]
    head = (
        "body",
        f"server, {many} at once",
        "CPU ms",
        "floor's CPU / its",
        "requests/s",
        "p50 ms",
        "p99 ms",
    )
    return (
        f"{table(head, rows)}\n\nload average {min(loads):.1f} to {max(loads):.1f}:"
        " requests/s and percentiles are an indication only"
    )  # fmt: skip


def _cell(turns: list[dict], kind: str, name: str, at_once: int) -> tuple[str, ...]:
    mine = [t["servers"] for t in turns if (t["body"], t["at_once"]) == (kind, at_once)]
    mine = [turn for turn in mine if name in turn]
    if not mine:
        return ("–",) * 5
    seconds = sorted(value for turn in mine for value in turn[name]["seconds"])
    ratio = _ratio(turns, kind, at_once, "floor", name)
    return (
        f"{1000 * median(turn[name]['cpu'] for turn in mine):.1f}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{median(turn[name]['count'] / turn[name]['wall'] for turn in mine):.1f}",
        f"{1000 * percentile(seconds, 0.50):.0f}",
        f"{1000 * percentile(seconds, 0.99):.0f}",
    )


def _ratio(turns: list[dict], kind: str, at_once: int, over: str, under: str) -> float | None:
    found = [
        turn["servers"][over]["cpu"] / turn["servers"][under]["cpu"]
        for turn in turns
        if (turn["body"], turn["at_once"]) == (kind, at_once)
        and over in turn["servers"] and under in turn["servers"]
    ]  # fmt: skip
    return median(found) if found else None


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def bars(turns: list[dict]) -> str:
    """Return what was asked of ratios of CPU time at 8 and 32 at once, and what was found."""
    rows = []
    for (own, other), asked in BARS.items():
        for kind, bar in asked.items():
            for at_once in (8, 32):
                found = _ratio(turns, kind, at_once, other, own)
                if found is not None:
                    verdict = "passed" if found >= bar else "missed"
                    rows.append(
                        (
                            NAMES[own],
                            NAMES[other],
                            KINDS[kind],
                            at_once,
                            bar,
                            f"{found:.2f}",
                            verdict,
                        )
                    )
    head = ("ours", "against", "body", "at once", "bar", "its CPU / ours", "")
    return f"{table(head, rows)}\n\n{_percentiles(turns)}"


def _percentiles(turns: list[dict]) -> str:
    lines = []
    for kind in dict.fromkeys(turn["body"] for turn in turns):
        for at_once in (1, 8):
            seconds = {
                name: sorted(
                    value
                    for turn in turns
                    if (turn["body"], turn["at_once"]) == (kind, at_once)
                    and name in turn["servers"]
                    for value in turn["servers"][name]["seconds"]
                )
                for name in ("ours", "floor")
            }
            if at_once == 1 and all(seconds.values()):
                ratio = percentile(seconds["ours"], 0.5) / percentile(seconds["floor"], 0.5)
                lines.append(
                    f"- {KINDS[kind]}, 1 at once: p50 {ratio:.2f} x the floor's (bar for JPEG: 1.2)"
                )
            if at_once == 8 and seconds["ours"]:
                own = seconds["ours"]
                ratio = percentile(own, 0.99) / percentile(own, 0.5)
                lines.append(
                    f"- {KINDS[kind]}, 8 at once: p99 {ratio:.2f} x p50 of {len(own)} (bar: 2)"
                )
    return "\n".join(lines)
