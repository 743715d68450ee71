"""Shadow mode: a challenger scores the images that the champion has answered, off the road of the answer.

It runs in one thread of lowest priority behind a short queue; when that is full, images pass it by and are
counted. What it writes is pairs of answers: no pixels, no identifier, no digest of a file, no exact time.
"""

import json
import os
import queue
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.score import Score
from pipeline.model.package import Package, open_package
from services.inference.figures import Figures
from services.inference.journal import Journal
from services.inference.settings import ServiceSettings

if TYPE_CHECKING:
    from pipeline.model.runtime import Runtime
    from services.inference.decoders import Decoded

WAITING = 64
"""Prepared images that may wait for the challenger: 10 MB at 224 pixels."""


@dataclass(frozen=True, slots=True)
class _Pair:
    found: "Decoded"
    champion: Score


class Shadow:
    """The challenger of one worker.

    Parameters
    ----------
    package, runtime
        The challenger.
    report
        Folder for the pairs; ``None``: they are only counted.
    """

    def __init__(
        self,
        package: Package,
        runtime: "Runtime",
        report: Path | None,
        figures: Figures,
        journal: Journal,
    ) -> None:
        self._package = package
        self._runtime = runtime
        self._figures = figures
        self._journal = journal
        self._file = None if report is None else report / f"pairs-{os.getpid()}.jsonl"
        if report is not None:
            report.mkdir(parents=True, exist_ok=True)
        self._pairs: queue.Queue[_Pair | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def offer(self, champion: Package, found: "Decoded", score: Score) -> None:
        """Hand over an image that was answered; never waits, never raises."""
        if champion.card.contract_sha256 != self._package.card.contract_sha256:
            self._count("other_contract")
            return
        if not score.quality.sufficient or found.prepared.outside:
            return
        try:
            self._pairs.put_nowait(_Pair(found, score))
        except queue.Full:
            self._count("passed_by")

    def close(self) -> None:
        """Let what waits be scored for a moment, then end."""
        try:
            self._pairs.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(5)

    def _run(self) -> None:
        # Linux: of this thread alone
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while (pair := self._pairs.get()) is not None:
            try:
                self._compare(pair)
            except Exception as error:  # noqa: BLE001 - a challenger's faults are its own
                self._count("failed")
                self._journal.fault(error, reason="the challenger failed")

    def _compare(self, pair: _Pair) -> None:
        from pipeline.model.scoring import score_prepared

        theirs = score_prepared(
            self._package, self._runtime, pair.found.instance, pair.found.prepared
        )
        self._count("same" if theirs.verdict == pair.champion.verdict else "changed")
        if self._file is not None:
            line = json.dumps(pair_of(pair.champion, theirs)) + "\n"
            with self._file.open("a", encoding="ascii") as stream:
                stream.write(line)

    def _count(self, outcome: str) -> None:
        self._figures.shadow.labels(outcome).inc()


def pair_of(champion: Score, challenger: Score) -> dict[str, Any]:
    """Return one line of the report: who answered what, on which day."""
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "champion": champion.model.package_sha256,
        "challenger": challenger.model.package_sha256,
        "verdicts": [champion.verdict, challenger.verdict],
        "probabilities": {
            finding.name: [finding.probability, other.probability]
            for finding in champion.findings
            for other in challenger.findings
            if other.name == finding.name
        },
    }


def open_shadow(settings: ServiceSettings, figures: Figures, journal: Journal) -> "Shadow | None":
    """Load and check the challenger; a fault is told and leaves the service without a shadow."""
    from pipeline.model.opening import open_runtime
    from services.inference.checking import wish_of

    try:
        trusted = Path(settings.trusted_keys) if settings.trusted_keys else None
        package = open_package(Path(settings.shadow), trusted_keys=trusted)
        runtime = open_runtime(package, wish_of(settings)).runtime
        report = Path(settings.shadow_report) if settings.shadow_report else None
        shadow = Shadow(package, runtime, report, figures, journal)
    except Exception as error:  # noqa: BLE001 - the champion serves, whatever it is
        journal.fault(error, reason="no shadow: the challenger or its report", message=str(error))
        return None
    journal.write("shadow", challenger=package.card.name, package=package.sha256)
    return shadow
