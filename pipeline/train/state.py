"""A run's state folder: what it was begun with, and its last checkpoints, until it has finished.

It holds ``run.json``, ``lock`` (held by the process that trains the run) and two checkpoints. The
name of a checkpoint ends with the digest of its bytes, so a torn one is known as such.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from data_schemas.dataset import DatasetInfo
from data_schemas.document import Document
from data_schemas.errors import TrainingError
from data_schemas.files import sha256, write_bytes
from data_schemas.plan import Plan
from data_schemas.settings import flat
from data_schemas.version import our_version
from pipeline.train.checkpoint import facts_of
from pipeline.train.world import World, threads_of

Say = Callable[[str], None]

KEPT = 2
"""So many checkpoints stay: should the last one be torn, the one before it serves."""
BEGUN = "run.json"
_NAME = re.compile(r"epoch-(\d{5})-step-(\d{7})-([0-9a-f]{16})\.safetensors")


class Begun(Document):
    """What a run was begun with. It goes on with the same plan, data and number of processes only."""

    run_id: str
    plan: Plan
    dataset: str
    dataset_sha256: str
    contract_sha256: str
    processes: int
    threads: int
    device: str
    hilum_version: str
    torch_version: str


def begun_with(run_id: str, plan: Plan, info: DatasetInfo, world: World) -> Begun:
    """Return what a run is begun with, here and now."""
    return Begun(
        run_id=run_id,
        plan=plan,
        dataset=info.name,
        dataset_sha256=info.content_sha256,
        contract_sha256=info.contract_sha256,
        processes=world.size,
        threads=max(threads_of(kind.threads) for kind in plan.kinds()),
        device=world.device.type,
        hilum_version=our_version(),
        torch_version=str(torch.__version__),
    )


def read_begun(folder: Path) -> Begun:
    """Return what the run of a state folder was begun with.

    Raises
    ------
    TrainingError
        If there is no such state.
    HilumError
        If it can't be read.
    """
    file = folder / BEGUN
    if not file.is_file():
        raise TrainingError(
            "no state of this run lies here",
            where=folder,
            mend="name the folder that holds it with --state, or train anew without --resume",
        )
    return Begun.read_json(file)


def refuse_changes(begun: Begun, plan: Plan, info: DatasetInfo, processes: int) -> None:
    """Refuse to go on with another plan, data set or number of processes, naming what differs.

    Raises
    ------
    TrainingError
        If anything of it differs.
    """
    was, now = (flat(one.model_dump(mode="json")) for one in (begun.plan, plan))
    changed = [f"{key}: {was[key]} then, {now[key]} now" for key in now if was[key] != now[key]]
    if changed:
        raise TrainingError(
            f"run {begun.run_id} was begun with another plan: {'; '.join(changed)}",
            where="plan",
            mend="leave out --config and --set to go on with its own plan, or train anew",
        )
    for what, then, given in (
        ("data set", begun.dataset_sha256, info.content_sha256),
        ("contract", begun.contract_sha256, info.contract_sha256),
    ):
        if then != given:
            raise TrainingError(
                f"run {begun.run_id} was begun with another {what}: `{begun.dataset}` "
                f"{then[:12]} then, `{info.name}` {given[:12]} now",
                where=what,
                mend="name the folder of the data set it was begun with, or train anew",
            )
    if begun.processes != processes:
        raise TrainingError(
            f"run {begun.run_id} was begun by {begun.processes} processes, {processes} are here",
            where="processes",
            mend=f"start it with torchrun --nproc-per-node {begun.processes}"
            if begun.processes > 1
            else "start it without torchrun",
        )


class StateFolder:
    """Where one run's checkpoints lie. Opened by :func:`begin` or :func:`reopen`."""

    def __init__(
        self, path: Path, begun: Begun, say: Say, whole: "StateFolder | None" = None
    ) -> None:
        self.path, self.begun = path, begun
        self._say = say
        self._whole = whole or self
        self._opened = time.monotonic()
        self._earlier_s = 0.0

    def of_member(self, number: int) -> "StateFolder":
        """Return the folder below this one for one of the run's several networks, from 0."""
        path = self.path / f"member-{number}"
        path.mkdir(exist_ok=True)
        named = f"network {number + 1}"
        return StateFolder(path, self.begun, lambda words: self._say(f"{named}: {words}"), self)

    @property
    def spent_s(self) -> float:
        """Seconds spent on this run, those before the checkpoint that it went on from included."""
        whole = self._whole
        return whole._earlier_s + time.monotonic() - whole._opened  # noqa: SLF001 - the same class

    def went_on_from(self, facts: dict[str, Any]) -> None:
        """Take note of the checkpoint that training goes on from, and say so."""
        self._whole._earlier_s = float(facts["seconds"])  # noqa: SLF001 - the same class
        self._say(f"goes on in epoch {facts['epoch']} after step {facts['step']}")

    def write(self, data: bytes, epoch: int, step: int) -> None:
        """Write a checkpoint whole or not at all, then remove all but the last :data:`KEPT`.

        Where the disk refuses, training goes on with a remark: the last good one still lies here.
        """
        name = f"epoch-{epoch:05d}-step-{step:07d}-{sha256(data)[:16]}.safetensors"
        try:
            write_bytes(self.path / name, data)
        except OSError as error:
            self._say(
                f"note: no checkpoint at epoch {epoch}, step {step}: {os.strerror(error.errno or 0)}"
                f" ({self.path}); training goes on"
            )
            return
        for old in self.checkpoints()[:-KEPT]:
            old.unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints' files in the order of training."""
        return sorted(file for file in self.path.iterdir() if _NAME.fullmatch(file.name))

    def newest(self) -> bytes:
        """Return the newest whole checkpoint; nothing if none was written yet.

        Raises
        ------
        TrainingError
            If it belongs to another run, plan or data set.
        """
        for file in reversed(self.checkpoints()):
            data = file.read_bytes()
            if sha256(data)[:16] != _digest_in(file):
                self._say(f"note: {file.name} is torn; the one before it is used")
                continue
            self._check(facts_of(data), file)
            return data
        return b""

    def remove(self) -> None:
        """Remove the folder: its run has finished."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _check(self, facts: dict[str, Any], file: Path) -> None:
        wanted = identity(self.begun)
        differing = [key for key, value in wanted.items() if facts.get(key) != value]
        if differing:
            raise TrainingError(
                f"the checkpoint is of another {', '.join(differing)} than {BEGUN} beside it",
                where=file,
                mend="remove it, and go on from the checkpoint before it",
            )


@contextmanager
def begin(root: Path, begun: Begun, say: Say) -> Iterator[StateFolder]:
    """Open a new run's state folder below ``root``, locked for this process."""
    folder = root / begun.run_id
    folder.mkdir(parents=True, exist_ok=True)
    begun.write_json(folder / BEGUN)
    with _locked(folder, begun.run_id):
        yield StateFolder(folder, begun, say)


@contextmanager
def reopen(root: Path, now: Begun, info: DatasetInfo, say: Say) -> Iterator[StateFolder]:
    """Open the state folder of the run that ``now`` wants to go on with, locked for this process.

    What makes the end differ in its last bits but nothing else (threads, device, versions) is
    said, not refused.

    Raises
    ------
    TrainingError
        If there is none, another process trains this run, or plan, data or processes differ.
    """
    folder = root / now.run_id
    begun = read_begun(folder)
    refuse_changes(begun, now.plan, info, now.processes)
    differing = [
        f"{key.replace('_', ' ')} {getattr(begun, key)} then, {getattr(now, key)} now"
        for key in ("threads", "device", "hilum_version", "torch_version")
        if getattr(begun, key) != getattr(now, key)
    ]
    if differing:
        say(f"note: the weights will not be bit-equal to an unbroken run: {'; '.join(differing)}")
    with _locked(folder, begun.run_id):
        for part in folder.rglob(".*.part"):
            part.unlink()  # a checkpoint that was being written when the process was killed
        yield StateFolder(folder, begun, say)


def identity(begun: Begun) -> dict[str, str]:
    """Return what a checkpoint and the run it is used for must share."""
    return {"run": begun.run_id, "plan": begun.plan.digest(), "data set": begun.dataset_sha256}


def _digest_in(file: Path) -> str:
    found = _NAME.fullmatch(file.name)
    return found[3] if found else ""


@contextmanager
def _locked(folder: Path, run_id: str) -> Iterator[None]:
    with contextlib.ExitStack() as closing:
        lock = closing.enter_context((folder / "lock").open("a"))
        try:
            # let go by the system when this process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"run {run_id} is being trained by another process",
                where=folder,
                mend="wait for it, or stop it first",
            ) from error
        yield
