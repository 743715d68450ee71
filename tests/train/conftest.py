"""Small data sets in memory, with the face of a data set folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from data_schemas.contract import Contract
from data_schemas.dataset import DatasetInfo, Label
from services.cli.main import main

SPLIT_SHARES = {"train": 0.5, "tune": 0.2, "calibration": 0.2, "test": 0.1}


@dataclass
class MemorySet:
    folder: Path
    info: DatasetInfo
    contract: Contract
    images: np.ndarray
    truths: dict
    split: np.ndarray

    def indices(self, split):
        return np.flatnonzero(self.split == split)

    def labels(self, name):
        return self.truths[name]

    def patients(self):
        return np.array([f"p{row // 2}" for row in range(len(self.images))])

    def pixels(self, indices):
        return self.images[indices]


def make_set(n=80, size=16, channels=3, kinds=None, seed=0):
    """Images whose left half is bright when the label is 1, and ever brighter with the grade."""
    kinds = kinds or {"bright": 2}
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 90, (n, size, size, channels)).astype(np.uint8)
    truths, documents = {}, []
    for place, (name, count) in enumerate(kinds.items()):
        truth = (np.arange(n) // (place + 1)) % count
        band = slice(place * size // 2 // len(kinds), (place + 1) * size // 2 // len(kinds))
        images[:, :, band] += (truth * 120 // max(count - 1, 1))[:, None, None, None].astype(
            np.uint8
        )
        truths[name] = truth.astype(np.int64)
        documents.append(
            Label(
                name=name,
                kind="binary" if count == 2 else "classes",
                classes=tuple(f"c{k}" for k in range(count)),
                counts=tuple(np.bincount(truth, minlength=count).tolist()),
            )
        )
    edges = np.rint(np.cumsum(list(SPLIT_SHARES.values())) * n)[:-1]
    split = np.array(list(SPLIT_SHARES), dtype=object)[
        np.searchsorted(edges, np.arange(n), "right")
    ]
    contract = Contract(name="tiny", size=size, channels=channels)
    info = DatasetInfo(
        name="tiny",
        hilum_version="0",
        contract_name="tiny",
        contract_sha256=contract.digest(),
        size=size,
        channels=channels,
        images=n,
        patients=n // 2,
        files_read=n,
        refused={},
        splits={name: int((split == name).sum()) for name in SPLIT_SHARES},
        labels=tuple(documents),
        shards=(),
        content_sha256=hashlib.sha256(images.tobytes()).hexdigest(),
    )
    return MemorySet(Path("tiny"), info, contract, images, truths, split)


@pytest.fixture
def memory_set():
    return make_set


@pytest.fixture
def broken_off(tmp_path, monkeypatch):
    """Begin a training in a folder of its own, break it off, and return what it was begun with.

    ``carry_out(dataset, plan, state, track)`` trains; ``place`` is (epoch, step), or (epoch, None) for
    the end of an epoch.
    """
    from pipeline.train import state as states
    from pipeline.train.world import World

    monkeypatch.chdir(tmp_path)

    def until(dataset, plan, carry_out, place):
        heard = []

        def broken(epoch, step, metrics):
            heard.append(epoch)
            if place == (epoch, step) or (place == (epoch, None) and metrics is not None):
                raise ZeroDivisionError

        begun = states.begun_with("r", plan, dataset.info, World())
        with (
            states.begin(Path("states"), begun, lambda _: None) as state,
            pytest.raises(ZeroDivisionError),
        ):
            carry_out(dataset, plan, state, broken)
        assert heard[-1] == place[0]
        return begun

    return until


def ingest_drawn(folder, splits, noise, bright):
    """Ingest drawn 28-px images, every second one ``bright`` in its upper half; return the data set."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, n in zip(("train", "val", "test"), splits, strict=True):
        truth = (np.arange(n) % 2).astype(np.uint8)
        images = generator.integers(0, noise, (n, 28, 28, 3)).astype(np.uint8)
        images[truth == 1, :14] += bright
        arrays |= {f"{split}_images": images, f"{split}_labels": truth[:, None]}
    np.savez(folder / "tiny.npz", **arrays)
    key = folder / "key"
    key.write_text("not a secret, this is a test")
    words = ["ingest", str(folder / "tiny.npz"), "--out", str(folder / "set")]
    assert main([*words, "--key-file", str(key)]) == 0
    return folder / "set"


@pytest.fixture(scope="session")
def drawn_dataset():
    return ingest_drawn
