"""The Basic Application Level Confidentiality Profile (PS3.15 Annex E) as a table, and its options."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Dates = Literal["remove", "shift", "keep"]
Retained = Literal["device", "institution", "patient", "uids"]

RETAINABLE: tuple[Retained, ...] = ("device", "institution", "patient", "uids")

_BASIC = ("113100", "Basic Application Confidentiality Profile")
_FULL_DATES = ("113106", "Retain Longitudinal Temporal Information Full Dates Option")
_MODIFIED_DATES = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
_OPTION_CODES: dict[Retained, tuple[str, str]] = {
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}
_LONGITUDINAL: dict[Dates, str] = {"remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED"}


@dataclass(frozen=True, slots=True)
class Rule:
    """What the profile does to one attribute (PS3.15 Table E.1-1, edition 2026c)."""

    action: str
    """D dummy, Z empty, X remove, U map the UID; mixed codes depend on the attribute's type."""
    retained_by: str
    """The option that keeps the attribute, or empty."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The options taken with the profile."""

    dates: Dates = "remove"
    retain: frozenset[Retained] = frozenset()

    @property
    def longitudinal(self) -> str:
        """Longitudinal Temporal Information Modified (0028,0303)."""
        return _LONGITUDINAL[self.dates]

    def codes(self) -> list[tuple[str, str]]:
        """Return value and meaning for the De-identification Method Code Sequence (CID 7050)."""
        found = [_BASIC]
        if self.dates != "remove":
            found.append(_FULL_DATES if self.dates == "keep" else _MODIFIED_DATES)
        found += [_OPTION_CODES[option] for option in RETAINABLE if option in self.retain]
        return sorted(found)


@cache
def rules() -> dict[int, Rule]:
    """Return the table: tag -> rule. Repeating groups and private tags are not in it."""
    text = (files(__package__) / "profile.csv").read_text(encoding="ascii")
    return {
        int(row["tag"], 16): Rule(row["action"], row["retained_by"])
        for row in csv.DictReader(text.splitlines())
    }
