"""An ingestion under way: its journal and spool, what is done, and what is still to do."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_schemas.progress import Progress
from pipeline.imaging.workers import End
from pipeline.ingest.folder import clear
from pipeline.ingest.journal import Entry, Header, Journal, begin, header_of, state_key
from pipeline.ingest.patients import place_key
from pipeline.ingest.previous import Previous
from pipeline.ingest.records import Refusal, SourceFile, Taken
from pipeline.ingest.spool import Spool, sync
from pipeline.ingest.taking import Image, Outcome, Seen, digest_of, sorted_digests
from pipeline.ingest.write import JOURNAL

_SYNC_S = 5.0

Said = tuple[SourceFile, Outcome | End]
Engine = Callable[[Iterable[SourceFile], NDArray[np.bytes_] | None], Iterator[Said]]
"""Takes files, in any order, skipping those whose digest is known. The last word on each is ``End``."""


class Work:
    """Journal and spool of one ingestion, with an index of what they hold."""

    def __init__(self, journal: Journal, spool: Spool, previous: Previous | None) -> None:
        self.journal = journal
        self._spool = spool
        self._previous = previous
        self._done: dict[str, tuple[str, int]] = {}
        self._digests: dict[str, int] = {}
        # the disk is waited for by a thread, not by those who hand out work
        self._thread = ThreadPoolExecutor(1, "sync")
        self._syncing: Future[None] | None = None
        self._synced = time.monotonic()
        rows: list[int] = []
        for place, entry in journal.entries():
            own = [taken for taken in entry.outcomes if isinstance(taken, Taken)]
            if all(self._holds(taken) for taken in own):
                self._note(entry, place)
                rows += [taken.spool_row for taken in own if taken.spool_row >= 0]
        spool.cut(rows)  # pixels that no line of the journal speaks of

    def _holds(self, taken: Taken) -> bool:
        row = taken.spool_row
        return row < 0 or self._spool.holds(row, taken.pixel_sha256)

    def _note(self, entry: Entry, place: int) -> None:
        if entry.lasting():
            self._digests[entry.source_sha256] = place
        self._done[entry.place_key] = (entry.state_key if entry.lasting() else "", place)

    def is_done(self, place: str, state: str) -> bool:
        """Tell whether a file was taken in this very state. Both are keyed hashes."""
        return bool(state) and self._done.get(place, ("", 0))[0] == state

    def known(self) -> NDArray[np.bytes_] | None:
        """Return the digests of all files that were taken, sorted."""
        return sorted_digests(digest for digest in self._digests if digest)

    def forget(self, places: Iterable[str]) -> None:
        """Count files as not done, nor their bytes as known: they will be taken again."""
        for place in places:
            _, at = self._done.pop(place)
            self._digests.pop(self.journal.at(at).source_sha256, None)

    def add(self, image: Image) -> Taken:
        """Put an image's pixels into the spool, if the process that took it hasn't."""
        if image.pixels:
            return replace(image.taken, spool_row=self._spool.add(image.pixels), given=None)
        self._spool.note(image.taken.spool_row)
        return image.taken

    def finish(self, place: str, state: str, outcomes: list[Taken | Refusal | Seen]) -> None:
        """Write into the journal that a file is done."""
        first = outcomes[0]
        if isinstance(first, Seen):
            entry = self.journal.at(self._digests[first.source_sha256]).moved(place, state)
        else:
            kept = tuple(outcome for outcome in outcomes if not isinstance(outcome, Seen))
            entry = Entry(place, state, first.source_sha256, kept)
        self._note(entry, self.journal.append(entry))
        if time.monotonic() - self._synced > _SYNC_S:
            self._sync()

    def _sync(self) -> None:
        self._synced = time.monotonic()
        if self._syncing is not None:
            if not self._syncing.done():
                return
            self._syncing.result()  # a disk that failed is told
        self._syncing = self._thread.submit(_sync, self._spool.fresh(), self.journal)

    def close(self) -> None:
        """Wait for the disk."""
        self._thread.shutdown()

    def pixels_at(self, row: int) -> bytes:
        """Return the array of a spool row, or of the previous version for a negative one."""
        if row < 0 and self._previous is not None:
            return self._previous.pixels_at(row)
        return self._spool.read(row)

    def outcomes(self, places: Iterable[str]) -> tuple[list[Taken], list[Refusal]]:
        """Return what became of files, by the keyed hashes of their places; images in manifest order."""
        wanted = {self._done[place][1] for place in places}
        taken: list[Taken] = []
        refusals: list[Refusal] = []
        for place, entry in self.journal.entries():
            if place not in wanted:
                continue
            for outcome in entry.outcomes:
                if isinstance(outcome, Taken):
                    taken.append(outcome)
                else:
                    refusals.append(outcome)
        taken.sort(key=lambda t: (t.source_sha256, t.frame, t.pixel_sha256, t.place_key))
        return taken, refusals


def _sync(paths: list[Path], journal: Journal) -> None:
    # in any order: a line of the journal whose pixels are not there is found out when it is read
    sync(paths)
    journal.sync()


@contextmanager
def open_work(
    part: Path,
    header: Header,
    image_bytes: int,
    previous: Previous | None,
    say: Callable[[str], None],
) -> Iterator[Work]:
    """Open what an earlier process left in the hidden folder, or begin it.

    It is gone on with only if contract, key, versions and previous data set are the same.
    """
    path = part / JOURNAL
    found = header_of(path)
    if found != header:
        if found is not None:
            say(
                "an unfinished run used another contract, key, or version of hilum or a decoder: started anew"
            )
        clear(part)
        begin(path, header, () if previous is None else previous.entries())
    with Journal(path) as journal, Spool(part, image_bytes) as spool:
        work = Work(journal, spool, previous)
        try:
            yield work
        finally:
            work.close()


def take_all(
    work: Work, files: tuple[SourceFile, ...], key: bytes, engine: Engine, progress: Progress
) -> tuple[list[Taken], list[Refusal]]:
    """Take every file that isn't done yet, and return what became of all of them."""
    todo = [
        file for file in files if not work.is_done(place_key(key, file.place), state_key(key, file))
    ]
    done, total = len(files) - len(todo), len(files)
    progress(done, total, "reading")
    begun: dict[str, list[Taken | Refusal | Seen]] = {}
    for file, said in engine(todo, work.known()):
        place = place_key(key, file.place)
        if isinstance(said, End):
            outcomes = begun.pop(place, [])
            if said.code or not outcomes:
                digest = outcomes[0].source_sha256 if outcomes else digest_of(file)
                code, reason = said.code or "CORRUPT", said.reason or "the file holds no frame"
                outcomes.append(Refusal(digest, code, reason, place_key=place))
            work.finish(place, state_key(key, file), outcomes)
            done += 1
            progress(done, total, "reading")
        else:
            outcome = work.add(said) if isinstance(said, Image) else said
            begun.setdefault(place, []).append(outcome)
    taken, refusals = work.outcomes(place_key(key, file.place) for file in files)
    given = {place_key(key, file.place): file.given for file in files if file.given is not None}
    if given:
        taken = [replace(image, given=given.get(image.place_key)) for image in taken]
    return taken, refusals
