"""What to do when a batch doesn't fit into the memory, with the line of the plan to change."""

import math
from pathlib import Path

from data_schemas import settings
from data_schemas.errors import HilumError
from data_schemas.plan import Plan


def place_of(file: Path, key: str) -> str:
    """Return ``plan.yaml:14`` for a dotted key, the file alone where it doesn't set the key."""
    try:
        places = settings.from_file(file).places
    except HilumError:
        return file.name
    full = places.get(tuple(key.split(".")), str(file))
    return full.replace(str(file), file.name, 1)


def smaller_batch(plan: Plan, fitting: int = 0) -> int:
    """Return a batch to try: the largest power of two within ``fitting``, or half of the present one."""
    most = min(fitting or plan.learning.batch // 2, plan.learning.batch - 1)
    return 2 ** int(math.log2(most)) if most >= 1 else 0


def out_of_memory(plan: Plan, file: Path | None = None, fitting: int = 0) -> str:
    """Return ``batch 32 did not fit: try 16, plan.yaml:14``, for a run that ran out of memory.

    Parameters
    ----------
    plan
        The plan that was carried out.
    file
        The file it came from; without one, ``--set`` is advised.
    fitting
        The largest batch that is known to fit, if it is known.
    """
    part = math.ceil(plan.learning.batch / plan.learning.accumulate)
    what = f"batch {plan.learning.batch} did not fit"
    if part < plan.learning.batch:
        what = f"batch {plan.learning.batch} in {plan.learning.accumulate} parts did not fit"
    batch = smaller_batch(plan, fitting)
    if not batch:
        key, advice = "network.backbone", "try a smaller backbone or smaller images"
    else:
        key, advice = "learning.batch", f"try {batch}"
    where = f"--set {key}=..." if not batch else f"--set {key}={batch}"
    if file is not None and file.is_file():
        where = place_of(file, key)
    return f"{what}: {advice}, {where}"
