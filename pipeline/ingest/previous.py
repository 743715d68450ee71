"""The version of a data set that is there already: what of it can be used again, and what has changed since."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_schemas.contract import Contract
from data_schemas.dataset import Changes, DatasetInfo
from data_schemas.errors import UsageError
from data_schemas.terms import Split
from pipeline.imaging.makers import pixel_makers
from pipeline.ingest.journal import Entry, Header, entries_of, header_of
from pipeline.ingest.records import Refusal, Taken
from pipeline.ingest.store import Dataset, open_dataset
from pipeline.ingest.write import INFO, JOURNAL, REFUSED

LOST = -(2**62)
"""The spool row of an image whose pixels are nowhere: it was taken, but refused afterwards."""

_ANEW = "choose another --out, or build it anew with --force"
_COMPARED = ("source_sha256", "frame", "code", "reason", "label_line")
_OF_VERSION = ("version", "previous_sha256", "changes", "leaks", "hilum_version")


class Previous:
    """A finished data set whose prepared pixels the next version takes over."""

    def __init__(self, dataset: Dataset) -> None:
        self.info = dataset.info
        self._dataset = dataset
        digests = dataset.manifest["pixel_sha256"].to_pylist()
        self._places = {digest: row for row, digest in enumerate(digests)}

    def entries(self) -> Iterator[Entry]:
        """Yield what needn't be decoded again; a negative spool row points into this data set.

        Images that were refused later have no pixels here any more: their row is ``LOST``. Another version of hilum or of a decoder may make
        other pixels: then that is nothing.
        """
        made = header_of(self._dataset.folder / JOURNAL)
        if made is None or made.pixel_makers != pixel_makers():
            return
        for _, entry in entries_of(self._dataset.folder / JOURNAL):
            if entry.lasting():
                yield replace(entry, outcomes=tuple(map(self._pointing, entry.outcomes)))

    def _pointing(self, outcome: Taken | Refusal) -> Taken | Refusal:
        if isinstance(outcome, Refusal):
            return outcome
        place = self._places.get(outcome.pixel_sha256)
        return replace(outcome, spool_row=LOST if place is None else -1 - place)

    def splits(self) -> dict[str, tuple[Split, int]]:
        """Return patient -> split and fold: in the next version they keep both."""
        columns = self._dataset.manifest.select(["patient", "split", "fold"]).to_pydict()
        return {
            patient: (split, fold) for patient, split, fold in zip(*columns.values(), strict=True)
        }

    def pixels_at(self, spool_row: int) -> bytes:
        """Return the array that a negative spool row points to."""
        return self._dataset.read(-1 - spool_row)

    def thumbnails(self) -> dict[tuple[str, int], bytes]:
        """Return the pictures of what was refused, by digest and frame."""
        names = ["source_sha256", "frame", "thumbnail"]
        table = pq.read_table(self._dataset.folder / REFUSED, columns=names)
        return {
            (row["source_sha256"], row["frame"]): row["thumbnail"]
            for row in table.to_pylist()
            if row["thumbnail"] is not None
        }

    def same(self, info: DatasetInfo, refusals: Iterable[Refusal]) -> bool:
        """Tell whether a new version would hold nothing new."""
        kept = {name: getattr(self.info, name) for name in _OF_VERSION}
        if info.model_copy(update=kept) != self.info:
            return False
        before = pq.read_table(self._dataset.folder / REFUSED, columns=list(_COMPARED)).to_pylist()
        now = [tuple(getattr(refusal, name) for name in _COMPARED) for refusal in refusals]
        return Counter(now) == Counter(tuple(row[name] for name in _COMPARED) for row in before)

    def changes(self, rows: Iterable[dict[str, Any]]) -> Changes:
        """Compare the images of a new version's manifest with these."""
        manifest = self._dataset.manifest
        names = [name for name in manifest.column_names if _is_label(name)]
        before: dict[str, list[dict[str, Any]]] = {}
        for row in manifest.select(["pixel_sha256", *names]).to_pylist():
            before.setdefault(row.pop("pixel_sha256"), []).append(row)
        added = relabelled = 0
        for row in rows:
            twins = before.get(row["pixel_sha256"])
            labels = {name: value for name, value in row.items() if _is_label(name)}
            if twins:
                relabelled += twins.pop() != labels
            else:
                added += 1
        removed = sum(map(len, before.values()))
        return Changes(added=added, removed=removed, relabelled=relabelled)


def _is_label(column: str) -> bool:
    return column.startswith("label_") and column != "label_line"


def open_previous(
    out: Path, contract: Contract, header: Header, places: Iterable[str]
) -> Previous | None:
    """Open the data set that stands in ``out``; ``None`` if there is none.

    ``places`` are the keyed hashes of the source's files.

    Raises
    ------
    UsageError
        If it was made with another contract, another key, or from files of which none is here.
    """
    if not (out / INFO).is_file():
        return None
    info = DatasetInfo.read_json(out / INFO)
    if info.contract_sha256 != header.contract_sha256:
        what = f"the data set there was made with the contract `{info.contract_name}`"
        if info.contract_name == contract.name:
            what += " in another form"
        raise UsageError(what, where=out, mend=_ANEW)
    made = header_of(out / JOURNAL)
    if made is None:
        raise UsageError("the data set there has no journal to go on from", where=out, mend=_ANEW)
    if made.key_sha256 != header.key_sha256:
        raise UsageError(
            "the data set there has pseudonyms of another key",
            where=out,
            mend=f"give the key that it was made with; or {_ANEW}",
        )
    known = {entry.place_key for _, entry in entries_of(out / JOURNAL)}
    if known.isdisjoint(places):
        raise UsageError("the data set there was made from another source", where=out, mend=_ANEW)
    return Previous(open_dataset(out))
