"""One column of a label table to a label: numbers, words, an order, or no label at all."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_schemas.terms import LabelKind
from pipeline.ingest.roles import label_name
from pipeline.ingest.table import Table

MOST_CLASSES = 32
_MOSTLY = 0.9
_LONGEST_WORD = 40
_INTEGER = re.compile(r"-?\d+(\.0*)?")
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([ T].*)?|(19|20)\d{6}")
_TRUTH = {
    "true": "1", "yes": "1", "y": "1", "positive": "1", "present": "1",
    "false": "0", "no": "0", "n": "0", "negative": "0", "absent": "0",
}  # fmt: skip
_SIDES = {"l", "r", "b", "u", "od", "os", "ou", "left", "right", "both"}
_UNKNOWN = {"na", "n/a", "nan", "null", "none", "<na>", "?", "unknown"}
_ORDINAL = re.compile(r"(grade|grading|stage|score|level|severity|birads|bi_rads)s?(_|$)")
# columns that name or describe a person, whatever they hold (PS3.15 table E.1-1 has their attributes)
_PERSONAL = re.compile(
    r"(^|_)(id|ids|uid|uuid|mrn|name|surname|forename|person|patient|subject|birth|birthday|dob|date|"
    r"time|datetime|year|phone|address|street|city|zip|postcode|email|insurance|ssn|accession|"
    r"physician|doctor|operator|reader|technician|comment|comments|note|notes|remark|remarks|report|"
    r"text|description|history|indication)(_|$)|(id|uid)$|number$"
)
_NUMBERED = re.compile(r"(^|_)(id|ids|uid|uuid|mrn|accession|patient|subject|year|birth|dob)(_|$)")
# class_name and label_id are not about a person
_CLASSES = re.compile(r"(^|_)(class|classes|label|category|diagnosis|finding|disease|grade)(_|$)")

Values = list[int | None]


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A label's name, kind and classes, as the table shows them."""

    name: str
    kind: LabelKind
    classes: tuple[str, ...]


def _is_personal(pattern: re.Pattern[str], name: str) -> bool:
    return bool(pattern.search(name)) and not _CLASSES.search(name)


@dataclass
class Reader:
    """Reads the columns of one table; faults and remarks gather in its lists.

    A cell is never quoted: in a column that slipped sideways it may be a name.
    """

    table: Table
    patients: Sequence[str] | None
    orders: Mapping[str, tuple[str, ...]]
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def read(self, title: str, *, wanted: bool) -> tuple[LabelColumn, Values] | None:
        """Return a column as a label, or None if it is none, with a fault or a remark."""
        order = self.orders.get(label_name(title), ())
        cells = self._known(title, order)
        filled = [cell for cell in cells if cell]
        if not filled:
            self._not(title, "is empty", wanted=wanted)
            return None
        if order:
            return self._ordered(title, cells, order)
        truth = [_TRUTH.get(cell.lower(), cell) for cell in cells]
        whole = sum(bool(_INTEGER.fullmatch(cell)) for cell in truth)
        if whole == len(filled):
            return self._numbers(title, truth, wanted=wanted)
        if whole >= _MOSTLY * len(filled):
            self.faults += [
                f"{self.table.where(row)}: {title}: is not a whole number; mend it or empty the cell"
                for row, cell in enumerate(truth)
                if cell and not _INTEGER.fullmatch(cell)
            ]
            return None
        return self._words(title, cells, wanted=wanted)

    def _known(self, title: str, order: tuple[str, ...]) -> list[str]:
        """Return the cells, those that say "not known" emptied."""
        words = _UNKNOWN - {word.lower() for word in order}
        given = self.table.columns[title]
        if not order and any(
            cell and cell.lower() not in words | _TRUTH.keys() and not _INTEGER.fullmatch(cell)
            for cell in given
        ):
            words = words - {"none"}  # among words it is one: no disease
        cells = ["" if cell.lower() in words else cell for cell in given]
        emptied = sum(bool(cell) for cell in given) - sum(bool(cell) for cell in cells)
        if emptied and any(cells):
            self.remarks.append(f"column `{title}`: {emptied} cells such as NA mean: not known")
        return cells

    def _not(self, title: str, why: str, *, wanted: bool) -> None:
        if wanted:
            self.faults.append(f"{self.table.name}: {title}: {why}: it can't be a label")
        else:
            self.remarks.append(f"column `{title}` {why}: ignored")

    def _numbers(
        self, title: str, cells: list[str], *, wanted: bool
    ) -> tuple[LabelColumn, Values] | None:
        name = label_name(title)
        values = [int(cell.partition(".")[0]) if cell else None for cell in cells]
        present = {value for value in values if value is not None}
        if not wanted and _is_personal(_NUMBERED, name):
            self._not(title, "names a person or a number of one", wanted=False)
            return None
        if min(present) < 0 or max(present) >= MOST_CLASSES:
            if not wanted:
                self._not(title, f"goes beyond 0..{MOST_CLASSES - 1}", wanted=False)
                return None
            self.faults += [
                f"{self.table.where(row)}: {title}: is no class, they are 0..{MOST_CLASSES - 1}; "
                "empty the cell if it is not known"
                for row, value in enumerate(values)
                if value is not None and not 0 <= value < MOST_CLASSES
            ]
            return None
        ordinal = name in self.orders
        if present <= {0, 1} and not ordinal:
            return LabelColumn(name, "binary", ("0", "1")), values
        classes = tuple(str(k) for k in range(max(*present, 1) + 1))
        named = bool(_ORDINAL.search(name)) and len(classes) > 2
        return LabelColumn(name, "ordinal" if ordinal or named else "classes", classes), values

    def _words(
        self, title: str, cells: list[str], *, wanted: bool
    ) -> tuple[LabelColumn, Values] | None:
        name = label_name(title)
        cells, joined = _one_spelling(cells)
        words = sorted({cell for cell in cells if cell})
        if name in self.orders:
            mend = f"--ordinal {name}=WORD,WORD,... from low to high"
            self.faults.append(
                f"{self.table.name}: {title}: words have no order of their own; say {mend}"
            )
            return None
        why = self._no_class(name, cells, words, wanted=wanted)
        if why:
            self._not(title, why, wanted=wanted)
            return None
        self.remarks.append(f"column `{title}`: its {len(words)} words are its classes")
        if joined:
            self.remarks.append(
                f"column `{title}`: {joined} cells differ from their class in capitals, spaces or the "
                "form of accents only: they count as the most frequent spelling"
            )
        places = {word: k for k, word in enumerate(words)}
        values = [places[cell] if cell else None for cell in cells]
        return LabelColumn(name, "classes", tuple(words)), values

    def _no_class(self, name: str, cells: list[str], words: list[str], *, wanted: bool) -> str:
        """Return why a column of text is no label, or nothing.

        Words become class names, which everybody reads: what may name a person must not pass.
        """
        counts = Counter(cell for cell in cells if cell)
        always = {
            f"holds more than {MOST_CLASSES} different texts": len(words) > MOST_CLASSES,
            f"holds texts of more than {_LONGEST_WORD} characters": (
                max(len(word) for word in words) > _LONGEST_WORD
            ),
            "holds dates": any(_DATE.fullmatch(word) for word in words),
        }
        unasked = {
            "names or describes a person": _is_personal(_PERSONAL, name),
            "holds sides": {word.lower() for word in words} <= _SIDES,
            "holds one text only": len(words) < 2,
            "holds numbers inside text": any(
                sum(letter.isdigit() for letter in word) > 3 for word in words
            ),
            "is text that hardly repeats": sum(counts.values()) < 2 * len(words),
            "holds a text of its own for each patient": self._personal(cells),
        }
        reasons = always if wanted else always | unasked
        return next((why for why, found in reasons.items() if found), "")

    def _personal(self, cells: list[str]) -> bool:
        if self.patients is None:
            return False
        owners: dict[str, set[str]] = defaultdict(set)
        for cell, patient in zip(cells, self.patients, strict=True):
            if cell and patient:
                owners[cell].add(patient)
        return bool(owners) and all(len(patients) == 1 for patients in owners.values())

    def _ordered(
        self, title: str, cells: list[str], order: tuple[str, ...]
    ) -> tuple[LabelColumn, Values] | None:
        places = {_spoken(word): k for k, word in enumerate(order)}
        wrong = [row for row, cell in enumerate(cells) if cell and _spoken(cell) not in places]
        self.faults += [
            f"{self.table.where(row)}: {title}: is none of {', '.join(order)}" for row in wrong
        ]
        if wrong:
            return None
        values = [places[_spoken(cell)] if cell else None for cell in cells]
        return LabelColumn(label_name(title), "ordinal", order), values


def _spoken(cell: str) -> str:
    """Return what a word is when it is read aloud: without capitals, spaces and forms of accents."""
    return unicodedata.normalize("NFC", " ".join(cell.split()).casefold())


def _one_spelling(cells: list[str]) -> tuple[list[str], int]:
    """Return cells with each word in its most frequent spelling, and how many were spelled otherwise."""
    plain = [" ".join(unicodedata.normalize("NFC", cell).split()) for cell in cells]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in plain:
        counts[_spoken(cell)][cell] += 1
    chosen = {
        word: min(spellings.items(), key=lambda said: (-said[1], said[0]))[0]
        for word, spellings in counts.items()
    }
    out = [chosen[_spoken(cell)] for cell in plain]
    return out, sum(new != old for new, old in zip(out, cells, strict=True))
