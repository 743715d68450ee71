"""What the rules look at: a fingerprint, what was decided so far, and what a trial measured."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from data_schemas.fingerprint import Fingerprint, LabelFacts
from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.train.plan.cost import Estimate

GIB = 2**30
SIDE_WORDS = ("laterality", "eye", "side")
"""A label whose name holds one of these words says left or right: a mirror image would lie."""
SIDES = frozenset({"left", "right", "od", "os"})
"""So does one with such a word in the name of a class."""
BESIDE_WORDS = frozenset(
    [
        "age",
        "batch",
        "camera",
        "device",
        "ethnicity",
        "fold",
        "gender",
        "manufacturer",
        "quality",
        "race",
        "scanner",
        "sex",
        "view",
    ]
)
"""A label whose name holds one of these words says whose image it is, or how it was taken: nobody
trains a network for it unless asked to."""
SOUND = frozenset({"absent", "benign", "control", "healthy", "negative", "none", "normal", "or"})
"""A class whose name is made of these words alone is the one without the disease."""


@dataclass(frozen=True)
class When:
    """A condition of a rule, for a person and for the machine. ``a & b`` is both."""

    text: str
    holds: Callable[["Facts"], bool]

    def __and__(self, other: "When") -> "When":
        """Return the condition that both hold."""
        return When(f"{self.text}; {other.text}", lambda f: self.holds(f) and other.holds(f))


@dataclass
class Facts:
    """The measured facts by the names that rules and their reasons use.

    ``chosen`` fills up, in the table's order, with what was decided; a rule may look at what stands
    above it.
    """

    of: Fingerprint
    minutes: float = 30.0  # what one training may take
    minutes_given: bool = False  # somebody asked for it, so that the plan is shortened to it
    estimate: Estimate | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)  # what was asked for, by dotted key
    cells: int = 0  # side of the evidence map that these networks must make; 0: any

    def of_beside(self, backbone: str) -> "Facts":
        """Return the facts by which networks of another kind are decided on, as if they were alone."""
        common = {key: value for key, value in self.chosen.items() if "." not in key}
        grades = {"learning.grades": self.chosen["learning.grades"]}
        chosen = {**common, **grades, "network.backbone": backbone}
        cells = max(1, self.input_size // self.chosen["network.stride"])
        return replace(self, chosen=chosen, cells=cells)

    @property
    def beside_minutes(self) -> float:
        """How long one network of another kind takes, minutes; 0: not tried."""
        other = self.estimate.beside if self.estimate else None
        return other.networks_s / other.members / 60 if other else 0.0

    @property
    def size(self) -> int:
        """Side of the stored images, px."""
        return self.of.size

    @property
    def region(self) -> str:
        """What the contract crops to."""
        return self.of.region

    @property
    def border_percent(self) -> float:
        """Share of black border, percent."""
        return 100 * self.of.intensity.black_border

    @property
    def label_names(self) -> str:
        """All labels of the data set, listed."""
        return ", ".join(label.name for label in self.of.labels) or "none"

    @property
    def usable(self) -> tuple[LabelFacts, ...]:
        """Labels with two classes or more in the training split; all, if there is none."""
        found = tuple(
            label for label in self.of.labels if sum(n > 0 for n in label.counts["train"]) > 1
        )
        findings = tuple(label for label in found if not _words(label.name) & BESIDE_WORDS)
        return findings or found or self.of.labels

    @property
    def learned(self) -> tuple[LabelFacts, ...]:
        """The labels that were decided on."""
        names = self.chosen.get("labels", ())
        return tuple(label for label in self.of.labels if label.name in names)

    @property
    def main(self) -> LabelFacts | None:
        """The label of the verdict."""
        name = self.chosen.get("primary") or next(iter(self.chosen.get("labels", ())), "")
        return next((label for label in self.learned if label.name == name), None)

    @property
    def main_name(self) -> str:
        """The name of the label of the verdict."""
        return self.main.name if self.main else "none"

    @property
    def train(self) -> int:
        """Training images whose label is known."""
        return self._known("train")

    @property
    def tune(self) -> int:
        """Tuning images whose label is known."""
        return self._known("tune")

    @property
    def calibration(self) -> int:
        """Images with a known label that calibration may use: of its split, or of the tune split."""
        return self._known("calibration") or self.tune

    def _known(self, split: str) -> int:
        return max((label.known(split) for label in self.learned), default=0)

    @property
    def columns(self) -> int:
        """Logits of the network."""
        if not self.learned or self.learned[0].kind == "binary":
            return max(1, len(self.learned))  # of two classes one logit is free, too
        cumulative = self.learned[0].kind == "ordinal" and self.chosen.get("learning.grades") in (
            None,
            "cumulative",
        )
        return max(1, len(self.learned[0].classes) - cumulative)

    @property
    def per_column(self) -> int:
        """Calibration images per logit."""
        return self.calibration // self.columns

    @property
    def balance(self) -> float:
        """Rarest class over commonest, of the classes that the training split holds."""
        counts = [count for count in (self.main.counts["train"] if self.main else ()) if count]
        return min(counts) / max(counts) if counts else 1.0

    @property
    def positives(self) -> int:
        """Positive images that calibration may use."""
        if self.main is None:
            return 0
        counts = self.main.counts.get("calibration", ())
        counts = counts if sum(counts) else self.main.counts.get("tune", ())
        positive = self.chosen.get("positive_classes") or range(1, len(counts))
        return sum(counts[k] for k in positive if 0 <= k < len(counts))

    @property
    def cut_label(self) -> str:
        """The binary label that cuts the label of the verdict in two."""
        return self.main.cut.label if self.main and self.main.cut else ""

    @property
    def cut_grade(self) -> int:
        """From which grade on it is 1."""
        return self.main.cut.grade if self.main and self.main.cut else 1

    @property
    def side_label(self) -> str:
        """A chosen label that says left or right; empty: none does."""
        return next((label.name for label in self.learned if _says_side(label)), "")

    @property
    def sound_class(self) -> int | None:
        """The class of the verdict's label that means no disease, by its name; None: none does, or several."""
        names = self.main.classes if self.main else ()
        found = [k for k, name in enumerate(names) if _words(name) and _words(name) <= SOUND]
        return found[0] if len(found) == 1 else None

    @property
    def sound_name(self) -> str:
        """What that class is called."""
        return self.main.classes[self.sound_class] if self.main and self.sound_class else ""

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Backbones whose ImageNet weights are installed."""
        return self.of.machine.pretrained

    @property
    def backbone(self) -> str:
        """The backbone that was decided on."""
        return str(self.chosen.get("network.backbone", ""))

    @property
    def starts_from_imagenet(self) -> bool:
        """Whether the network starts from ImageNet weights."""
        return bool(self.chosen.get("network.weights") == "imagenet")

    @property
    def input_size(self) -> int:
        """Side of the images that the backbone sees, px."""
        return int(self.chosen.get("network.size") or self.size)

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return self.of.machine.cores

    @property
    def gpu_name(self) -> str:
        """The graphics processor, if there is one."""
        return self.of.machine.gpu.name if self.of.machine.gpu else "no GPU"

    @property
    def gpu_gb(self) -> float:
        """Its memory, GiB."""
        return self.of.machine.gpu.memory_bytes / GIB if self.of.machine.gpu else 0.0

    @property
    def epochs(self) -> int:
        """Epochs that were decided on."""
        return int(self.chosen.get("learning.epochs", 1))

    @property
    def batch(self) -> int:
        """Images per step that were decided on."""
        return int(self.chosen.get("learning.batch", 1))

    @property
    def seen(self) -> int:
        """Training images seen in all."""
        return self.epochs * self.train

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * max(1, round(self.train / self.batch))

    @property
    def available_gb(self) -> float:
        """Memory that a training may take, GiB."""
        return self.estimate.available_bytes / GIB if self.estimate else 0.0

    @property
    def needed_gb(self) -> float:
        """Memory that the plan without ``accumulate`` would take, GiB."""
        return self.estimate.memory_bytes(self.batch) / GIB if self.estimate else 0.0

    @property
    def member_minutes(self) -> float:
        """How long one network takes for the epochs that were tried, minutes."""
        return self.estimate.member_s(self.estimate.epochs) / 60 if self.estimate else 0.0


def leaves(schema: type[Any] = Plan, above: str = "") -> list[str]:
    """Return every key of the plan, dotted, in the schema's order; not its version."""
    found: list[str] = []
    for name, info in schema.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            found += leaves(inner, f"{above}{name}.")
        elif name != "schema_version":
            found.append(f"{above}{name}")
    return found


def twin_of(key: str) -> str:
    """Return the key of `network`, `learning` or the plan itself that a key of `beside` stands for."""
    name = key.removeprefix("beside.")
    above = next(part for part in (NetworkPlan, Learning, Plan) if name in part.model_fields)
    return {NetworkPlan: "network.", Learning: "learning.", Plan: ""}[above] + name


def default_of(key: str) -> tuple[Any, str]:
    """Return the schema's default of a dotted key, as plain values, and what the key means."""
    tree: Any = Plan().model_dump(mode="json")
    schema: Any = Plan
    *above, name = key.split(".")
    for part in above:
        tree, schema = tree[part], schema.model_fields[part].annotation
    return tree[name], schema.model_fields[name].description or "as the schema has it"


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))


def _says_side(label: LabelFacts) -> bool:
    named = any(word in label.name.split("_") for word in SIDE_WORDS)
    return named or any(_words(name) & SIDES for name in label.classes)
