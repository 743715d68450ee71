"""The numbers of the funnel: from the files that were read to the images that stayed.

STARD 2015 (item 19) and CLAIM 2024 (item 33) ask for a diagram of the flow with every exclusion
and its reason. The drawing, the page's table and the text on the terminal show these numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from data_schemas.dataset import REFUSALS, DatasetInfo

_UNREADABLE = ("NOT_AN_IMAGE", "TRUNCATED", "CORRUPT", "NO_DECODER", "TOO_LARGE", "TIMED_OUT", "DECODER_DIED")  # fmt: skip
_UNLABELLED = ("NO_LABEL",)
_NOT_UNIQUE = ("DUPLICATE", "CONFLICTING_LABEL", "NEAR_DUPLICATE")
_UNGRADABLE = ("UNGRADABLE",)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the funnel: what passed it, and what was refused there by code."""

    name: str
    passed: int
    lost: tuple[tuple[str, int], ...] = ()


def stages(info: DatasetInfo) -> tuple[Stage, ...]:
    """Return the funnel of a data set, the files first.

    Every file and every frame counts once: the first number (or the second, where a file of many
    frames gives many images) is the sum of all refusals and of the images that stayed.
    """
    return flow(info.files_read, info.images, info.refused)


def flow(files: int, images: int, refused: Mapping[str, int]) -> tuple[Stage, ...]:
    """Return the funnel from its three numbers; codes without a stage of their own fall under the contract."""
    left = images + sum(refused.values())
    found = [Stage("files read", files)]
    if left != files:
        found.append(Stage("images in all frames", left))
    own = {*_UNREADABLE, *_UNLABELLED, *_NOT_UNIQUE, *_UNGRADABLE}
    contract = [code for code in refused if code not in own]
    for name, codes in (
        ("readable", _UNREADABLE),
        ("accepted", contract),
        ("gradable", _UNGRADABLE),
        ("labelled", _UNLABELLED),
        ("unique", _NOT_UNIQUE),
    ):
        lost = tuple((code, refused[code]) for code in codes if refused.get(code))
        left -= sum(count for _, count in lost)
        found.append(Stage(name, left, tuple(sorted(lost, key=lambda pair: (-pair[1], pair[0])))))
    return tuple(found)


def funnel_text(info: DatasetInfo) -> str:
    """Return the funnel as text: one line of what passed, then what was refused and why."""
    every = stages(info)
    told = [every[0], every[1], *(stage for stage in every[2:] if stage.lost)]
    lines = [" → ".join(f"{stage.passed:,} {stage.name}" for stage in told)]
    lines.append(f"{info.files_read:>9,}  files read")
    for stage in every:
        lines += [f"{-count:>9,}  {code}: {REFUSALS.get(code, '')}" for code, count in stage.lost]
    splits = ", ".join(f"{split} {count:,}" for split, count in info.splits.items())
    patients = "1 patient" if info.patients == 1 else f"{info.patients:,} patients"
    lines.append(f"{info.images:>9,}  images of {patients} ({splits})")
    return "\n".join(lines)
