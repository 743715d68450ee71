"""Refuses to train on a data set whose splits leak, unless somebody takes it upon himself."""

from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import TrainingError
from data_schemas.leaks import LeakFinding
from pipeline.ingest.leaks.examine import examine_quickly, kept_report
from pipeline.ingest.store import Dataset

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Leaks:
    """What a run says about leaks: a word for its tags, sentences for its card."""

    tag: str
    notes: tuple[str, ...] = ()


def check_leaks(dataset: object, *, accept: bool) -> Leaks:
    """Look into the leak doctor's report; without one, look for patients and pixels in two splits.

    Parameters
    ----------
    dataset
        Only a data set folder has patients that could leak; for anything else nothing is checked.
    accept
        Train in spite of findings that block.

    Raises
    ------
    TrainingError
        If findings block and nobody accepts them.
    """
    if not isinstance(dataset, Dataset):
        return Leaks("not examined")
    report = kept_report(dataset)
    if report is None:
        blocking = [one for one in examine_quickly(dataset) if one.severity == "blocks"]
        warnings, tag = 0, "patients and pixels only"
        notes = [f"leaks: only patients and pixels were compared: hilum leaks {dataset.info.name}"]
    else:
        blocking = [one for one in report.findings if one.severity == "blocks"]
        warnings, tag, notes = report.warnings, "none", []
    if warnings:
        tag = f"{warnings} warnings"
        notes.append(f"leaks: the leak doctor warns of {warnings} findings, see leaks.json")
    return judged(blocking, Leaks(tag, tuple(notes)), dataset.folder, accept=accept)


def judged(blocking: list[LeakFinding], said: Leaks, folder: Path, *, accept: bool) -> Leaks:
    """Return ``said``, with a sentence about what blocks, if somebody accepts it.

    Raises
    ------
    TrainingError
        If findings block and nobody accepts them.
    """
    if not blocking:
        return said
    if not accept:
        raise _refused(blocking, folder)
    sentence = (
        f"leaks: trained in spite of {len(blocking)} findings that block, figures may be too good; "
        # the sentence itself names a pseudonym, and notes go into the package
        f"the first is of the kind {blocking[0].kind}; hilum leaks names all"
    )
    return Leaks(f"{len(blocking)} accepted", (*said.notes, sentence))


def _refused(blocking: list[LeakFinding], folder: Path) -> TrainingError:
    shown = "\n".join(f"  {finding.sentence}" for finding in blocking[:_SHOWN])
    more = f"\n  ... and {len(blocking) - _SHOWN} more" if len(blocking) > _SHOWN else ""
    return TrainingError(
        f"its splits leak, {len(blocking)} findings block training:\n{shown}{more}",
        where=folder,
        mend=f"see all of them: hilum leaks {folder}; or train with --accept-leaks, which the "
        "model's card will say",
    )
