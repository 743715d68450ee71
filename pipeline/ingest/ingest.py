"""The way from a source to a data set folder, in one function."""

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo
from data_schemas.errors import DatasetError, UsageError
from data_schemas.progress import Progress
from data_schemas.version import our_version
from pipeline.imaging.makers import pixel_makers
from pipeline.imaging.workers import WorkerLimits
from pipeline.ingest import local_engine, ray_engine
from pipeline.ingest.build import Result, build
from pipeline.ingest.choose import choose, without_near_duplicates
from pipeline.ingest.folder import check_target, discard, part_of
from pipeline.ingest.join import Joined, join, without_labels
from pipeline.ingest.journal import Header, fingerprint
from pipeline.ingest.labels import LabelColumn, Labels, read_labels
from pipeline.ingest.names import NamedFiles, named_files
from pipeline.ingest.patients import place_key, pseudonym
from pipeline.ingest.previous import LOST, Previous, open_previous
from pipeline.ingest.records import Chosen, Refusal, SourceFile, Taken
from pipeline.ingest.sources.ahead import fetched_ahead
from pipeline.ingest.sources.listing import Access, Listing
from pipeline.ingest.sources.open import open_source
from pipeline.ingest.splits import SplitRule
from pipeline.ingest.table import read_table
from pipeline.ingest.taking import take_file
from pipeline.ingest.work import Engine, Said, Work, open_work, take_all
from pipeline.ingest.write import INFO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _mute(remark: str) -> None:
    """Listen to no remarks."""


@dataclass(frozen=True, slots=True)
class Options:
    """What else may be said about an ingestion."""

    name: str = ""
    """The data set's name; empty: the source's."""
    labels: tuple[str, ...] = ()
    """Labels to use; empty: all."""
    ordinal: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Labels whose classes have an order; their words from low to high, or none for numbers."""
    strict_labels: bool = False
    """A row of the label table without its file is a fault."""
    access: Access = field(default_factory=Access)
    """Options and secrets of the source."""
    force: bool = False
    """Build the data set anew, whatever stands in its place."""
    engine: Literal["local", "ray"] = "local"
    workers: int = 0
    """Processes that decode; 0: one for each core."""
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    """What one image may cost."""
    ray_address: str = ""
    """A running Ray cluster; empty: this machine."""
    splits: SplitRule = field(default_factory=SplitRule)
    """How patients are put into splits and folds; ``external`` holds sites by name or pseudonym."""
    drop_near_duplicates: bool = False
    """Refuse images that are almost the same as one of a more sealed split."""
    examine: bool = True
    """Let the leak doctor look at the data set before it is published."""
    say: Callable[[str], None] = _mute
    """Called with remarks for a person."""


def ingest(
    source: Path | str,
    labels: Path | None,
    out: Path,
    contract: Contract,
    *,
    key: bytes,
    progress: Progress,
    options: Options = Options(),
) -> DatasetInfo:
    """Turn a source into a data set folder: every file ends as an image or as a refusal.

    What is done is kept in a hidden folder beside ``out``: an ingestion that was killed goes on where
    it stopped. If ``out`` holds a data set of this source, contract and key, it becomes its next
    version; with nothing new it stays as it is.

    Parameters
    ----------
    source
        A folder, or whatever else :func:`pipeline.ingest.sources.open.open_source` opens.
    labels
        CSV, Parquet or JSON; ``None`` for a ``.npz``, or for a data set without labels.
    out
        The folder to write. It appears, or is replaced, whole or not at all.
    key
        Key of the patients' pseudonyms.

    Raises
    ------
    UsageError
        If source, labels and out don't go together.
    DatasetError
        If the label table is wrong (all faults at once), no image is left, or the disk is full.
    """
    check_target(out, mark=INFO)
    if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise UsageError("lies inside the source folder", where=out, mend="write it elsewhere")
    given = _given(source, labels, contract, key, options, progress)
    listing = given.listing
    with part_of(out) as part, _room(out):
        header = Header(
            contract_sha256=contract.digest(),
            key_sha256=fingerprint(key),
            hilum_version=our_version(),
            pixel_makers=pixel_makers(),
        )
        previous = None
        if not options.force:
            places = (place_key(key, file.place) for file in listing.files)
            previous = open_previous(out, contract, header, places)
        if previous is not None:
            header = header.model_copy(update={"previous_sha256": previous.info.content_sha256})
        image_bytes = contract.size * contract.size * contract.channels
        with open_work(part, header, image_bytes, previous, options.say) as work:
            engine = partial(
                _stream,
                contract=contract,
                key=key,
                options=options,
                requests=listing.requests,
                spool=part,
            )
            rule = _split_rule(options, previous, key)
            decided = _decide(given, work, engine, (contract, key, rule, options), progress)
            taken, chosen, refusals = decided
            if not taken:
                discard(part)
            if not chosen:
                raise DatasetError(f"no image is left: {_funnel(refusals)}", where=str(source))
            result = Result(
                options.name or listing.name,
                len(listing.files),
                contract,
                given.columns,
                taken,
                chosen,
                refusals,
                folds=rule.folds,
                examined=options.examine,
            )
            info = build(result, work, part, out, previous=previous, progress=progress)
    if previous is not None and info is previous.info:
        options.say(f"nothing has changed: version {info.version} stays as it is")
    return info


def _decide(
    given: "_Given",
    work: Work,
    engine: Engine,
    how: tuple[Contract, bytes, SplitRule, Options],
    progress: Progress,
) -> tuple[list[Taken], list[Chosen], list[Refusal]]:
    """Take every file, join the labels, and return what was taken, what of it stays, and the rest."""
    contract, key, rule, options = how
    names = tuple(column.name for column in given.columns)
    while True:
        taken, refusals = take_all(work, given.listing.files, key, engine, progress)
        joined = given.joined(taken, key)
        chosen, doubles = choose(joined.pairs, names, rule)
        # chosen now, but refused in the version before: their pixels weren't kept
        lost = {i.taken.place_key for i in chosen if i.taken.spool_row == LOST}
        if not lost:
            break
        work.forget(lost)
    for remark in joined.remarks:
        options.say(remark)
    refusals = joined.with_lines(refusals) + joined.refusals + doubles
    if options.drop_near_duplicates:
        pixels = partial(_arrays, work, contract, chosen)
        chosen, copies = without_near_duplicates(chosen, pixels, progress)
        refusals += copies
    return taken, chosen, refusals


def _split_rule(options: Options, previous: Previous | None, key: bytes) -> SplitRule:
    # a site may be named as the label table has it, or as the header's institution
    named = options.splits.external
    sites = {site: frozenset({site, pseudonym(key, f"site:{site}")}) for site in named}
    before = {} if previous is None else previous.splits()
    return replace(options.splits, external=sites, before=before)


def _arrays(
    work: Work, contract: Contract, chosen: list[Chosen], places: NDArray[np.int64]
) -> NDArray[np.uint8]:
    shape = (len(places), contract.size, contract.size, contract.channels)
    arrays = b"".join(work.pixels_at(chosen[k].taken.spool_row) for k in places)
    return np.frombuffer(arrays, np.uint8).reshape(shape)


@contextmanager
def _room(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DatasetError(
            "the disk is full",
            where=out.parent,
            mend="make room and run the same command again: it goes on where it stopped",
        ) from error


def _stream(
    files: Iterable[SourceFile],
    known: NDArray[np.bytes_] | None,
    *,
    contract: Contract,
    key: bytes,
    options: Options,
    requests: int,
    spool: Path,
) -> Iterator[Said]:
    task = partial(take_file, contract=contract, key=key, known=known)
    if options.engine == "ray":
        return ray_engine.stream(files, task, options.workers, options.limits, options.ray_address)
    if requests > 1:
        files = fetched_ahead(files, requests)
    # other machines have no part in this one's disk: only here workers write pixels themselves
    return local_engine.stream(files, partial(task, spool=spool), options.workers, options.limits)


@dataclass(frozen=True, slots=True, repr=False)
class _Given:
    """What was asked for, opened and checked, before any image is read."""

    listing: Listing
    labels: Labels | None
    named: NamedFiles

    @property
    def columns(self) -> tuple[LabelColumn, ...]:
        return self.listing.columns if self.labels is None else self.labels.columns

    def joined(self, taken: list[Taken], key: bytes) -> Joined:
        if self.labels is None:
            return without_labels(taken, key)
        return join(self.labels, self.named, taken, key)


def _given(
    source: Path | str,
    table: Path | None,
    contract: Contract,
    key: bytes,
    options: Options,
    progress: Progress,
) -> _Given:
    labels = None
    if table is not None:
        labels = read_labels(read_table(table), options.labels, options.ordinal)
    access = replace(options.access, most_bytes=contract.limits.file_bytes)
    listing = open_source(str(source), progress=progress, access=access, table=table)
    if listing.columns and table is not None:
        raise UsageError("the source holds its own labels", where=table)
    named = NamedFiles()
    if labels is not None:
        named = named_files(labels, listing.files, listing.root, key, strict=options.strict_labels)
    for remark in (*listing.remarks, *(labels.remarks if labels else ()), *named.remarks):
        options.say(remark)
    return _Given(listing, labels, named)


def _funnel(refusals: list[Refusal]) -> str:
    counts = Counter(refusal.code for refusal in refusals)
    return ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
