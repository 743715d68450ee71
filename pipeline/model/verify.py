"""Runs images through every runtime and precision that this machine has, and says which may score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import HilumError, PackageError
from pipeline.model import agreement
from pipeline.model.agreement import Agreement
from pipeline.model.cores import available_cores
from pipeline.model.kinds import BASE, KINDS, Kind, missing
from pipeline.model.opening import evidence_against
from pipeline.model.package import Package, verification
from pipeline.model.runtime import Runtime
from pipeline.model.sums import INT8_GRAPH

PIECE = 64
"""Images that are read at once."""


@dataclass(frozen=True, slots=True)
class Verified:
    """One kind of runtime."""

    kind: Kind
    identity: str
    """Runtime, version and precision as read back; empty if it couldn't be opened."""
    found: Agreement | None
    allowed: bool
    """Whether a service or a batch here may score in it."""
    reason: str
    """Why not."""


def verify(package: Package, images: NDArray[np.uint8] | None = None) -> tuple[Verified, ...]:
    """Compare every kind of runtime that this machine has with the reference.

    Parameters
    ----------
    package
        An opened package.
    images
        Prepared ones, uint8 [N, S, S, C]; the reference is then ONNX Runtime in fp32. ``None``: the
        package's verification set, whose reference is the network itself, at export.

    Raises
    ------
    PackageError
        If the graph can't be loaded in ONNX Runtime.
    """
    stored = verification(package)
    on_stored = images is None
    images = stored.images if images is None else images
    wanted = stored.logits if on_stored else agreement.answers(Runtime(package), images).logits
    rows = []
    for kind in KINDS:
        if missing(kind) or (kind.precision == "int8" and INT8_GRAPH not in package.digests):
            continue
        try:
            runtime = Runtime(package, kind=kind, streams=available_cores())
        except PackageError:
            if kind == BASE:
                raise
            rows.append(Verified(kind, "", None, allowed=False, reason="it can't load the graph"))
            continue
        except HilumError as error:
            rows.append(Verified(kind, "", None, allowed=False, reason=error.what))
            continue
        found = agreement.compare(package.card, wanted, agreement.answers(runtime, images))
        reasons = [agreement.objection(kind.precision, found), evidence_against(package, kind)]
        if kind.precision == "fp32" and on_stored and not found.logit <= agreement.LOGIT:
            reasons.append(f"a logit differs by {found.logit:.2g}, {agreement.LOGIT:g} is allowed")
        reason = "; ".join(filter(None, reasons))
        rows.append(Verified(kind, runtime.identity, found, allowed=not reason, reason=reason))
    return tuple(rows)
