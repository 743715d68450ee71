"""What a training will cost, from a few measured steps: time and memory, linear in the batch."""

import math
from dataclasses import dataclass, replace

from data_schemas.plan import Plan
from pipeline.train.mixing import SMALL_SIDE, small_epochs

GIB = 2**30
KEEP_FREE = 0.1
"""Share of the available memory that a plan leaves alone: other processes live here, too."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a training takes at its peak: a fixed part, and one for each image of a batch."""

    fixed_bytes: float
    image_bytes: float

    def bytes_at(self, batch: int) -> float:
        """Return the peak with ``batch`` images in the network at a time."""
        return self.fixed_bytes + batch * self.image_bytes

    def largest_batch(self, available_bytes: float) -> int:
        """Return how many images fit, 0 if not even one."""
        room = available_bytes * (1 - KEEP_FREE) - self.fixed_bytes
        return max(0, math.floor(room / self.image_bytes))


@dataclass(frozen=True)
class Speed:
    """Seconds of the parts of an epoch, by measured steps."""

    step_s: float  # of every step, whatever its batch
    image_s: float  # of one image's way through the network and back
    forward_s: float  # of one image's way through the network only
    augment_s: float  # of one image's random changes, on one core
    on_gpu: bool = False

    def epoch_s(self, *, images: int, batch: int, parts: int, tune: int, cores: int) -> float:
        """Return the seconds of one epoch and its look at the tuning split."""
        steps = max(1, round(images / batch))
        learning = steps * parts * self.step_s + images * self.image_s
        changing = images * self.augment_s
        # a thread makes the next batches meanwhile: on cores that a GPU leaves free, or on ours
        both = max(learning, changing) if self.on_gpu else learning + changing / max(1, cores)
        return both + tune * self.forward_s


@dataclass(frozen=True)
class Estimate:
    """What a plan on a data set will cost on this machine."""

    memory: Memory
    speed: Speed
    available_bytes: int
    device: str
    cores: int
    images: int
    tune: int
    batch: int
    accumulate: int
    epochs: int
    members: int
    around_s: float  # of what comes before and after the epochs, whatever the networks
    after_s: float = 0.0  # of what each network is asked after its epochs
    folds: int = 0
    small_share: float = 0.0  # of the epochs: with smaller images
    beside: "Estimate | None" = None  # of the networks of another kind

    def memory_bytes(self, batch: int, accumulate: int = 1) -> float:
        """Return the peak of memory with such batches."""
        return self.memory.bytes_at(math.ceil(batch / accumulate))

    @property
    def needed_bytes(self) -> float:
        """Peak of memory of the plan as it is."""
        own = self.memory_bytes(self.batch, self.accumulate)
        # networks are trained one after another
        return max(own, self.beside.needed_bytes) if self.beside else own

    @property
    def epoch_s(self) -> float:
        """Seconds of one epoch of one network."""
        return self.speed.epoch_s(
            images=self.images,
            batch=self.batch,
            parts=self.accumulate,
            tune=self.tune,
            cores=self.cores,
        )

    def member_s(self, epochs: int) -> float:
        """Return the seconds that one network takes for so many epochs."""
        small = small_epochs(self.small_share, epochs)
        return (epochs - small + small * SMALL_SIDE**2) * self.epoch_s

    @property
    def total_s(self) -> float:
        """Seconds of the whole training, of all folds if there are some."""
        return max(1, self.folds) * (self.networks_s + self.around_s)

    @property
    def networks_s(self) -> float:
        """Seconds of all networks of one training."""
        own = self.members * (self.member_s(self.epochs) + self.after_s)
        return own + (self.beside.networks_s if self.beside else 0.0)

    @property
    def fits(self) -> bool:
        """Whether the memory is there."""
        return self.needed_bytes <= self.available_bytes

    def of(self, plan: Plan) -> "Estimate":
        """Return the estimate of a plan that differs in numbers only: epochs, batch, members."""
        kinds = plan.kinds()
        return replace(
            self,
            beside=self.beside.of(kinds[1]) if self.beside and len(kinds) > 1 else None,
            batch=plan.learning.batch,
            accumulate=plan.learning.accumulate,
            epochs=plan.learning.epochs,
            members=plan.network.members,
            folds=plan.folds,
            small_share=plan.learning.small_epochs,
        )


def gigabytes(size: float) -> str:
    """Return ``0.94 GB``, ``11.2 GB``, ``24 GB``, in units of 2**30 bytes."""
    amount = size / GIB
    if amount >= 100 or float(f"{amount:.1f}").is_integer():
        return f"{amount:.0f} GB" if amount >= 1 else f"{amount:.2f} GB"
    return f"{amount:.1f} GB" if amount >= 1 else f"{amount:.2f} GB"


def duration(seconds: float) -> str:
    """Return a time that a person can grasp: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
