"""What may stay of a single value: mapped UIDs, moved dates, capped ages, numbers that are numbers."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import date, timedelta

from pydicom.uid import UID_dictionary

from pipeline.ingest.deidentify.profile import Choice

DUMMY = "REMOVED"
_DUMMIES = {"DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "IS": "0", "DS": "0", "CS": DUMMY, "UI": "2.25.0"}  # fmt: skip
_MOST_SHIFT_DAYS = 3650
_OLDEST_YEARS = 89
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
_DATE_TIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?")
_AGE = re.compile(r"(\d{3})([DWMY])")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_OFFSET = re.compile(r"[+-]\d{4}")
_DAYS_A_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """What turns one patient's values into others: the key, and how far the dates move."""

    key: bytes
    days: int


def secret_of(key: bytes, patient: str) -> Secret:
    """Return the secret for one patient: dates move 1 to 3650 days back, by a keyed hash."""
    return Secret(key, -1 - int.from_bytes(_digest(key, f"days:{patient}")[:8]) % _MOST_SHIFT_DAYS)


def mapped_uid(key: bytes, uid: str) -> str:
    """Return the UID that stands for ``uid``: 2.25 and 128 bits of a keyed hash (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(_digest(key, f'uid:{uid}')[:16])}"


def is_well_known(uid: str) -> bool:
    """Tell whether a UID is one of the standard's own, which identifies no instance."""
    return uid in UID_dictionary


def clean_uid(uid: str, secret: Secret, choice: Choice) -> str:
    """Return a UID that may be written: well known, retained by the option, or mapped."""
    if not uid or is_well_known(uid):
        return uid
    if "uids" in choice.retain and re.fullmatch(r"[0-9.]{1,64}", uid):
        return uid
    return mapped_uid(secret.key, uid)


def dummy(vr: str) -> str | None:
    """Return a harmless value of this VR, ``None`` where there is none."""
    text = vr in ("AE", "LO", "SH", "ST", "LT", "UT", "UC", "PN")
    return DUMMY if text else _DUMMIES.get(vr)


def clean_time(vr: str, value: str, secret: Secret, choice: Choice) -> str | None:
    """Return a date (DA), time (TM) or both (DT) as the option wants it; ``None``: it has to go.

    Shifting moves whole days, so times of the day stay. What is not a full date can't be moved.
    """
    if choice.dates == "remove":
        return None
    if vr == "TM":
        return value if _TIME.fullmatch(value) else None
    if vr == "DA":
        found = _DATE.fullmatch(value)
        return None if found is None else _moved("".join(found.groups()), secret, choice)
    found = _DATE_TIME.fullmatch(value)
    if found is None:
        return None
    day = _moved(found[1], secret, choice)
    return None if day is None else f"{day}{found[2] or ''}{found[3] or ''}"


def clean_age(value: str) -> str | None:
    """Return an age; above 89 years ``090Y``, as such ages are too rare to be anonymous."""
    found = _AGE.fullmatch(value)
    if found is None:
        return None
    years = int(found[1]) * _DAYS_A_UNIT[found[2]]
    return "090Y" if years >= _OLDEST_YEARS + 1 else value


def is_number(value: str) -> bool:
    """Tell whether a decimal or integer string is a number and nothing else."""
    return _NUMBER.fullmatch(value) is not None


def is_code(value: str) -> bool:
    """Tell whether a code string keeps to its alphabet (PS3.5 6.2): no lower case, no umlauts."""
    return not value or _CODE.fullmatch(value) is not None


def is_offset(value: str) -> bool:
    """Tell whether a value is an offset from UTC."""
    return _OFFSET.fullmatch(value) is not None


def _moved(day: str, secret: Secret, choice: Choice) -> str | None:
    try:
        found = date(int(day[:4]), int(day[4:6]), int(day[6:]))
        moved = found + timedelta(days=secret.days if choice.dates == "shift" else 0)
    except (ValueError, OverflowError):
        return None
    return f"{moved:%Y%m%d}" if moved.year >= 1000 else None


def _digest(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
