"""Opens a package in the runtime and precision that the rule allows, and checks it before it scores.

The rule. fp32 unless asked for otherwise; in ONNX Runtime, on the CUDA device if this ONNX Runtime has
one. A reduced precision is used only if the card has a row for that runtime and precision, measured on
at least 32 real images, and the package's verification set answers the same here: no changed verdict at
any operating point and no probability off by more than 0.01. ``fast`` takes the fastest that is allowed,
else fp32, and says why. A precision that is asked for by name and isn't allowed is refused.
"""

from dataclasses import dataclass

from data_schemas.errors import HilumError, PackageError
from data_schemas.terms import PrecisionWish, RuntimeWish
from pipeline.model import agreement
from pipeline.model.agreement import Agreement
from pipeline.model.kinds import BASE, Kind, kind_of, missing
from pipeline.model.package import Package
from pipeline.model.runtime import Runtime
from pipeline.model.sums import INT8_GRAPH

LEAST_IMAGES = 32
"""Real images that a row of the card must have been measured on to allow a reduced precision."""

FASTEST_FIRST = (
    Kind("cuda", "fp32"),
    Kind("openvino", "int8"),
    Kind("openvino", "bf16"),
    Kind("onnxruntime", "int8"),
    BASE,
    Kind("openvino", "fp32"),
)
"""In CPU time per image (docs/runtime.md). In fp32 the two are equal, so that the base decides."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings ask for."""

    runtime: RuntimeWish = "auto"
    precision: PrecisionWish = "auto"


PLAIN = Wish()
"""fp32, where it is quickest."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A runtime that may score."""

    runtime: Runtime
    agreement: Agreement
    """Over the verification set, on this machine."""
    notes: tuple[str, ...] = ()
    """Why faster kinds were not taken."""


class CheckError(PackageError):
    """A package that must not be scored here in the way that was asked for."""


def open_runtime(
    package: Package,
    wish: Wish = PLAIN,
    *,
    threads: int = 1,
    streams: int = 1,
    batch: int | None = 1,
) -> Opened:
    """Open a package by the rule and run its verification set, which also warms it.

    ``threads``, ``streams`` and ``batch`` are those of :class:`Runtime`.

    Raises
    ------
    CheckError
        If nothing that was asked for is allowed, or fp32 doesn't give the stored logits.
    PackageError
        If the graph can't be loaded.
    UsageError
        If this machine lacks the runtime.
    """
    check_wish(package, wish, batch)
    notes: list[str] = []
    kinds = _kinds(wish)
    for kind in kinds:
        reason = missing(kind, batch or 1) or evidence_against(package, kind)
        if reason and kind.runtime == "cuda" and wish.runtime == "auto":
            continue
        if not reason:
            try:
                runtime = Runtime(package, threads, kind=kind, streams=streams, batch=batch)
                return _checked(package, runtime, streams, notes)
            except HilumError as error:
                if kind == kinds[-1] and wish.precision in ("auto", "fp32", "fast"):
                    raise
                reason = error.what
        notes.append(f"{kind}: {reason}")
    raise _refused(wish, notes)


def check_wish(package: Package, wish: Wish, batch: int | None = 1) -> None:
    """Refuse a wish that the package's files or this installation can't meet, before anything is loaded.

    Raises
    ------
    CheckError
        With every reason.
    """
    if wish.precision in ("auto", "fast", "fp32") and wish.runtime == "auto":
        return
    notes = []
    for kind in _kinds(wish):
        reason = missing(kind, batch or 1) or evidence_against(package, kind)
        if not reason:
            return
        notes.append(f"{kind}: {reason}")
    raise _refused(wish, notes)


def evidence_against(package: Package, kind: Kind) -> str:
    """Return why the package's files don't allow a kind, in words; empty if they do."""
    if kind.precision == "fp32":
        return ""
    if kind.precision == "int8" and INT8_GRAPH not in package.digests:
        return "the package has no int8 graph"
    for row in package.card.checks:
        if kind_of(row.precision) != kind:
            continue
        found = Agreement(
            row.images,
            row.max_logit_difference,
            row.max_probability_difference,
            row.changed_verdicts,
            row.near_threshold,
            row.max_evidence_difference,
        )
        reason = agreement.objection(kind.precision, found)
        if row.images < LEAST_IMAGES:
            few = f"measured on {row.images} images, {LEAST_IMAGES} are asked for"
            reason = f"{reason}, {few}" if reason else few
        return f"card.json, {row.split} split: {reason}" if reason else ""
    return "card.json has no row for it"


def _kinds(wish: Wish) -> list[Kind]:
    """Return what a wish could mean, the best first."""
    found = [kind for kind in FASTEST_FIRST if wish.runtime in ("auto", kind.runtime)]
    if wish.precision != "fast":
        precision = "fp32" if wish.precision == "auto" else wish.precision
        found = [kind for kind in found if kind.precision == precision]
    if BASE in found:
        # what the base can't do is told, not covered up by another runtime
        found = found[: found.index(BASE) + 1]
    return found


def _checked(package: Package, runtime: Runtime, streams: int, notes: list[str]) -> Opened:
    kind = runtime.kind
    found = agreement.on_verification(package, runtime, streams)
    if kind.precision == "fp32" and not found.logit <= agreement.LOGIT:
        raise CheckError(
            f"the verification images give logits {found.logit:.2g} away from the stored ones,"
            f" {agreement.LOGIT:.0e} is allowed"
        )
    reason = agreement.objection(kind.precision, found)
    if reason and kind.precision != "fp32":
        raise CheckError(f"on the verification images here {reason}")
    return Opened(runtime, found, tuple(notes))


def _refused(wish: Wish, notes: list[str]) -> CheckError:
    asked = " ".join(word for word in (wish.runtime, wish.precision) if word != "auto")
    reasons = "; ".join(notes) or "no runtime does that"
    return CheckError(
        f"may not be scored in {asked}: {reasons}",
        mend="`hilum verify PACKAGE` shows what is allowed, `hilum quantize` measures it; "
        "without --runtime and --precision it is ONNX Runtime in fp32",
    )
