"""The whole error family of hilum, and the one table of what each error means at each door.

::

    HilumError                      what happened, where, how to mend it
    ├── ConfigError                 a settings file or --set is wrong (all faults at once)
    ├── UsageError                  a command or request was called with something it can't take
    ├── ImageError                  bytes that don't become an image; carries a refusal code
    ├── DatasetError                a data set folder, manifest or label table is wrong
    ├── TrainingError               training can't start or go on
    ├── PackageError                a model package is incomplete, altered or not understood
    ├── TrackingError               MLflow can't be reached, or doesn't hold what was asked for
    ├── ReportError                 a draft or its vocabulary breaks a guarantee
    └── BusyError                   the service has no room for this request now
"""

from dataclasses import dataclass
from pathlib import Path


class HilumError(Exception):
    """Something a person can mend.

    Parameters
    ----------
    what
        The fact: the offending value and what was expected. Never a patient's name or identifier.
    where
        ``file:line``, a file, an attribute or an argument; ``None`` if the place is obvious.
    mend
        One imperative sentence, a command if there is one.
    """

    def __init__(
        self, what: str, *, where: str | Path | None = None, mend: str | None = None
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        """Return ``where: what`` and, on a line of its own, the hint."""
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        return line if self.mend is None else f"{line}\n\nhint: {self.mend}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a settings file: its place, its key and a sentence."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        """Return ``file:line: key: what is wrong, what would be right``."""
        return (
            f"{self.where}: {self.key}: {self.what}" if self.key else f"{self.where}: {self.what}"
        )


class ConfigError(HilumError):
    """Settings that can't be used; lists every fault of the input, not only the first."""

    def __init__(self, faults: list[Fault], *, mend: str | None = None) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in faults), mend=mend)


class UsageError(HilumError):
    """A command or a request was called with something it can't take."""


class ImageError(HilumError):
    """Bytes that don't become an image under the contract.

    ``code`` is one of :data:`data_schemas.dataset.REFUSALS`.
    """

    def __init__(
        self, code: str, what: str, *, where: str | Path | None = None, mend: str | None = None
    ) -> None:
        self.code = code
        super().__init__(what, where=where, mend=mend)


class DatasetError(HilumError):
    """A data set folder, its manifest or a label table is wrong."""


class TrainingError(HilumError):
    """Training can't start or can't go on."""


class PackageError(HilumError):
    """A model package is incomplete, altered, or says something this code can't honour."""


class TrackingError(HilumError):
    """MLflow can't be reached, or doesn't hold what was asked for."""


class ReportError(HilumError):
    """A draft or its vocabulary breaks one of the guarantees of report text."""


class BusyError(HilumError):
    """The service has no room for this request now; ``retry_after_s`` says when to try again."""

    def __init__(self, what: str, *, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(what, mend=f"try again in {retry_after_s} s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an error means at the three doors.

    DICOM status codes: PS3.4 table B.2-1 (C-STORE): 0xA700 out of resources, 0xC000 can't
    understand, 0x0110 processing failure.
    """

    http: int
    dicom: int
    exit_code: int


OUTCOMES: dict[type[HilumError], Outcome] = {
    HilumError: Outcome(500, 0x0110, 1),
    ConfigError: Outcome(500, 0x0110, 2),
    UsageError: Outcome(400, 0xC000, 2),
    ImageError: Outcome(422, 0xC000, 1),
    DatasetError: Outcome(500, 0x0110, 1),
    TrainingError: Outcome(500, 0x0110, 1),
    PackageError: Outcome(500, 0x0110, 1),
    TrackingError: Outcome(502, 0x0110, 1),
    ReportError: Outcome(500, 0x0110, 1),
    BusyError: Outcome(503, 0xA700, 1),
}
