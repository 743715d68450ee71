"""Which batch to try when one doesn't fit into the memory."""

import math

from data_schemas.plan import Plan


def smaller_batch(plan: Plan, fitting: int = 0) -> int:
    """Return a batch to try: the largest power of two within ``fitting``, or half of the present one.

    Always smaller than the present one; 0 if there is none.
    """
    most = min(fitting or plan.learning.batch // 2, plan.learning.batch - 1)
    return 2 ** int(math.log2(most)) if most >= 1 else 0
