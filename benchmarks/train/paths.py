"""The three ways to train that the benchmark compares: a bare loop, ours, and MONAI's documented one."""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_

from data_schemas.plan import Augmentation, Learning, NetworkPlan
from pipeline.train import augment, networks
from pipeline.train.batches import Batch, Order, TrainingBatches
from pipeline.train.loop import Metrics, Training, fit
from pipeline.train.precision import suit
from pipeline.train.world import World, open_world

POLICY = Augmentation(shift=0, brightness=0, contrast=0)
"""What MONAI's classification tutorial does: flip, turn by up to 15 degrees, zoom 0.9 to 1.1."""
RATE = 1e-3
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Case:
    """One network at one size, and the images of an epoch."""

    backbone: str
    size: int
    batch: int
    images: int

    @property
    def learning(self) -> Learning:
        return Learning(epochs=1, batch=self.batch, rate=RATE)

    def network(self) -> networks.EvidenceNetwork:
        """Return the network as it comes."""
        torch.manual_seed(0)
        return networks.build(NetworkPlan(backbone=self.backbone), 1, self.size).train()

    def suited(self, precision: str, device: torch.device) -> networks.EvidenceNetwork:
        """Return the network as our training lays it out."""
        network = self.network()
        suit(network, device, precision)
        return network

    def batches(self) -> list[np.ndarray]:
        return np.array_split(np.arange(self.images), self.images // self.batch)

    def labels(self) -> np.ndarray:
        return (np.arange(self.images) % 2)[:, None].astype(np.int64)


class Store:
    """Smooth random pictures in a memory-mapped file, as a data set holds them."""

    def __init__(self, folder: Path, case: Case) -> None:
        file = folder / f"{case.size}-{case.images}.npy"
        if not file.exists():
            np.save(file, self._drawn(case))
        self._pixels = np.load(file, mmap_mode="r")

    @staticmethod
    def _drawn(case: Case) -> np.ndarray:
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 256, (case.images, 8, 8, 3)).astype(np.uint8)
        side = (case.size, case.size)
        return np.stack([np.asarray(Image.fromarray(one).resize(side)) for one in coarse])

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._pixels[indices])


def loss_of(precision: str) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """Return binary cross-entropy in a precision, as ``pipeline.train.learning`` computes it."""
    world = World()

    def loss(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with world.autocast(precision):
            maps = network.features(batch.images)
        logits = network.judge(maps.float())[0]
        return binary_cross_entropy_with_logits(logits, batch.targets.float())

    return loss


def bare(folder: Path, case: Case, precision: str, suited: bool) -> Callable[[], None]:
    """Return an epoch of the loop that one writes by hand, with the same data.

    ``suited``: with our settings of the process, the layout and AdamW. Else as torch comes.
    """
    device = torch.device("cpu")
    if suited:
        open_world("cpu", 1, 0)
    torch.set_num_threads(1)
    network = case.suited(precision, device) if suited else case.network()
    store, labels, epochs = Store(folder, case), case.labels(), itertools.count(1)
    optimiser = torch.optim.AdamW(
        network.parameters(), RATE, weight_decay=0.05, fused=suited or None
    )
    steps = round(case.images / case.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 1000 * steps)
    change, loss = augment.policy(POLICY, 0), loss_of(precision)

    def epoch() -> None:
        number, total = next(epochs), 0.0
        order = np.random.default_rng(number).permutation(case.images)
        for rows in np.array_split(order, steps):
            images = torch.from_numpy(change(store.pixels(rows), rows, number))
            value = loss(network, Batch(images, torch.from_numpy(labels[rows])))
            optimiser.zero_grad()
            value.backward()
            clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += value.item()
        assert np.isfinite(total)

    return epoch


class Ours:
    """Epochs of our loop. ``waited_s`` and ``spent_s`` add up over all of them."""

    def __init__(
        self,
        case: Case,
        store: Store,
        precision: str,
        world: World,
        loss: Callable[[torch.nn.Module, Batch], torch.Tensor] | None = None,
    ) -> None:
        self._world = world
        order = Order(np.arange(case.images), 0)
        policy = augment.policy(POLICY, 0)
        learning = case.learning
        self._batches = TrainingBatches(
            store, case.labels(), order, learning.batch, policy, self._world
        )
        more = learning.model_copy(update={"epochs": 1000, "patience": 1000})
        network = case.suited(precision, world.device)
        self._training = Training(network, more, self._batches.steps)
        self._loss = loss or loss_of(precision)
        self.waited_s: list[float] = []

    def __call__(self) -> float:
        """Train one epoch more; return how long it waited for data, in seconds."""
        with contextlib.suppress(_Enough):
            fit(
                self._training,
                self._batches,
                self._loss,
                self._validate,
                _silent,
                self._world,
                _stop,
            )
        return self.waited_s[-1]

    def _validate(self, _network: torch.nn.Module) -> Metrics:
        self.waited_s.append(self._batches.waited_s)
        # ever better, so that the weights of each epoch are copied as the best so far
        return {"tune/auc": self._training.epoch / 1000, "tune/loss": 1.0}


def ours(folder: Path, case: Case, precision: str) -> Callable[[], float]:
    """Return an epoch of our loop."""
    return Ours(case, Store(folder, case), precision, open_world("cpu", 1, 0))


class _Enough(Exception):  # noqa: N818 - not an error: one epoch is over
    pass


def _stop(training: Training) -> None:
    if training.step == 0:
        raise _Enough


def _silent(_epoch: int, _step: int, _metrics: Metrics | None) -> None:
    pass


class _Plain(torch.nn.Module):
    """The same network as MONAI's trainer wants it: float pictures [N, C, S, S] to logits."""

    def __init__(self, network: networks.EvidenceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network.judge(self.network.backbone(pixels))[0]


def monai_changes(*, load: bool = False, norm: bool = False) -> Callable[[object], dict]:
    """Return the transforms of MONAI's classification tutorial as dictionary transforms."""
    from monai import transforms as t

    keys = ["image"]
    first = [t.LoadImaged(keys, image_only=True), t.EnsureChannelFirstd(keys)] if load else []
    last = [t.NormalizeIntensityd(keys, MEAN, SPREAD, channel_wise=True)] if norm else []
    return t.Compose(
        [
            *first,
            t.ScaleIntensityd(keys),
            t.RandRotated(keys, range_x=np.pi / 12, prob=0.5, keep_size=True),
            t.RandFlipd(keys, spatial_axis=0, prob=0.5),
            t.RandZoomd(keys, min_zoom=0.9, max_zoom=1.1, prob=0.5),
            *last,
        ]
    )


def monai(folder: Path, case: Case) -> Callable[[], object]:
    """Return an epoch of MONAI's trainer: ``PersistentDataset``, its loader, all defaults."""
    import monai.data
    from monai.engines import SupervisedTrainer

    torch.set_num_threads(1)
    store = Store(folder, case)
    pictures = folder / f"pictures-{case.size}"
    pictures.mkdir(exist_ok=True)
    listed = []
    for row, label in enumerate(case.labels()):
        file = pictures / f"{row}.png"
        if not file.exists():
            Image.fromarray(store.pixels(np.array([row]))[0]).save(file)
        listed.append({"image": str(file), "label": label.astype(np.float32)})
    cached = monai.data.PersistentDataset(
        listed, monai_changes(load=True, norm=True), cache_dir=folder / f"cache-{case.size}"
    )
    network = _Plain(case.network())
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=monai.data.DataLoader(cached, batch_size=case.batch, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), RATE),
        loss_function=binary_cross_entropy_with_logits,
    )

    def epoch() -> int:
        before = trainer.state.iteration if trainer.state.epoch < 1 else 0
        trainer.run()
        assert trainer.state.iteration - before == -(-case.images // case.batch)
        return trainer.state.iteration

    return epoch
