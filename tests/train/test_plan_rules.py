"""The table of rules: every fingerprint gets a valid plan, and what the rows promise is kept."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data_schemas import settings
from data_schemas.fingerprint import Cut, Fingerprint, Gpu, Intensity, LabelFacts, Machine, Spread
from data_schemas.plan import Plan
from data_schemas.terms import SPLITS
from pipeline.train.plan.cost import Estimate, Memory, Speed
from pipeline.train.plan.facts import Facts, leaves, twin_of
from pipeline.train.plan.make import plan_of
from pipeline.train.plan.rules import ALWAYS, RULES, decide
from pipeline.train.plan.write import render

GIB = 2**30
NOTHING = settings.Layer({})
LAPTOP = Machine(
    cores=2, memory_bytes=8 * GIB, bf16=True, versions={}, pretrained=("efficientnet_lite0",)
)
BARE = LAPTOP.model_copy(update={"pretrained": (), "bf16": False})
SERVER = LAPTOP.model_copy(
    update={"gpu": Gpu(name="a large one", memory_bytes=80 * GIB, bf16=True), "pretrained": ()}
)


def label(name="finding", kind="binary", counts=(300, 100), held_out=(60, 40), cut=None):
    classes = tuple(str(k) for k in range(len(counts)))
    known = dict.fromkeys(SPLITS, held_out) | {"train": counts, "external": ()}
    missing = dict.fromkeys(SPLITS, 0)
    return LabelFacts(name=name, kind=kind, classes=classes, counts=known, missing=missing, cut=cut)


FINDING = (label(),)


def fingerprint(labels=FINDING, size=320, region="fundus_field", machine=LAPTOP, colour=20.0):
    images = {split: max((x.known(split) for x in labels), default=0) for split in SPLITS}
    brightness = Intensity(
        images=9, mean=(90, 60, 30), sd=(9, 9, 9), colour=colour, black_border=0.2
    )
    return Fingerprint(
        dataset="drawn",
        dataset_sha256="0" * 64,
        contract="any",
        region=region,
        modalities={},
        formats={},
        size=size,
        channels=3,
        images=images,
        patients=images,
        images_per_patient=None,
        source_side=None,
        laterality_known=0.0,
        folds=0,
        labels=labels,
        intensity=brightness,
        machine=machine,
    )


def estimate(image_bytes=2**20, image_s=0.05, available=8 * GIB):
    return Estimate(
        memory=Memory(GIB, image_bytes),
        speed=Speed(0.01, image_s, image_s / 3, 0.001),
        available_bytes=available,
        device="cpu",
        cores=2,
        images=400,
        tune=100,
        batch=16,
        accumulate=1,
        epochs=13,
        members=1,
        around_s=15.0,
    )


def planned(given=None, timed=None, minutes=None, **facts):
    print_ = fingerprint(**facts)
    looked = Facts(print_, minutes or 30.0, minutes is not None, timed)
    decisions = decide(looked, given)
    return plan_of(decisions, NOTHING), {d.key: d for d in decisions}


def test_the_table_is_complete_and_every_key_ends_with_an_unconditional_row():
    keys = leaves()
    rows = {}
    for rule in RULES:
        assert rule.key in keys
        rows.setdefault(rule.key, []).append(rule)
    assert list(rows) == [key for key in keys if key in rows]
    # of a second kind of network, what has no rows is decided as its twin of the first kind is
    without = [key for key in keys if key not in rows]
    assert all(key.startswith("beside.") and twin_of(key) in rows for key in without), without
    for own in rows.values():
        assert own[-1].when is ALWAYS
        assert all(rule.when is not ALWAYS for rule in own[:-1])


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
counted = st.lists(st.integers(0, 100_000), min_size=2, max_size=7).map(tuple)


@st.composite
def any_label(draw):
    counts = draw(counted)
    kind = "binary" if len(counts) == 2 else draw(st.sampled_from(["classes", "ordinal"]))
    by_split = {s: draw(st.tuples(*[st.integers(0, 999)] * len(counts))) for s in SPLITS}
    cut = Cut(label="other", grade=draw(st.integers(1, len(counts) - 1)), agreement=1.0)
    return LabelFacts(
        name=draw(names),
        kind=kind,
        classes=tuple(str(k) for k in range(len(counts))),
        counts=by_split | {"train": counts},
        missing=dict.fromkeys(SPLITS, 0),
        cut=draw(st.sampled_from([None, cut])) if kind == "ordinal" else None,
    )


@st.composite
def any_fingerprint(draw):
    channels = draw(st.sampled_from([1, 3]))
    values = (draw(st.floats(0, 255)),) * channels
    share = st.floats(0, 1)
    gpu = st.builds(Gpu, name=st.text(), memory_bytes=st.integers(0, 2**38), bf16=st.booleans())
    return Fingerprint(
        dataset=draw(st.text()),
        dataset_sha256="a" * 64,
        contract=draw(st.text()),
        region=draw(st.sampled_from(["whole", "fundus_field", "breast"])),
        modalities={},
        formats={},
        size=draw(st.integers(8, 4096)),
        channels=channels,
        images={s: draw(st.integers(0, 10**6)) for s in SPLITS},
        patients={s: draw(st.integers(0, 10**6)) for s in SPLITS},
        images_per_patient=draw(st.sampled_from([None, Spread(low=1, median=2, high=9)])),
        source_side=None,
        laterality_known=draw(share),
        folds=draw(st.integers(0, 20)),
        labels=tuple(draw(st.lists(any_label(), max_size=4, unique_by=lambda x: x.name))),
        intensity=Intensity(
            images=0,
            mean=values,
            sd=values,
            colour=draw(st.floats(0, 99)),
            black_border=draw(share),
        ),
        machine=Machine(
            cores=draw(st.integers(1, 256)),
            memory_bytes=draw(st.integers(0, 2**40)),
            bf16=draw(st.booleans()),
            gpu=draw(st.none() | gpu),
            versions={},
            pretrained=draw(
                st.sampled_from(
                    [(), ("efficientnet_lite0",), ("efficientnet_lite0", "convnext_tiny")]
                )
            ),
        ),
    )


some_estimate = st.builds(
    estimate,
    image_bytes=st.integers(1, 2**33),
    image_s=st.floats(1e-6, 100),
    available=st.integers(0, 2**38),
)


@hypothesis_settings(max_examples=60)
@given(any_fingerprint(), st.none() | some_estimate, st.floats(0.1, 1e4), st.booleans())
def test_any_fingerprint_gives_a_valid_plan_that_reads_back(measured, timed, minutes, asked):
    decisions = decide(Facts(measured, minutes, asked, timed))
    plan = plan_of(decisions, NOTHING)
    second = plan.beside.backbone != "none"
    lines = [key for key in leaves() if second or not key.startswith("beside.")]
    assert [decision.key for decision in decisions if decision.key in lines] == lines
    assert len(decisions) == len(lines) + (not second)
    assert all(decision.why for decision in decisions)
    text = render(decisions, measured, timed and timed.of(plan))
    assert settings.resolve(Plan, [settings.from_text(text, "plan.yaml")]) == plan


def test_few_photographs_start_from_imagenet_and_are_seen_often():
    plan, why = planned(labels=(label(counts=(371, 100)),))
    assert (plan.network.backbone, plan.network.weights) == ("efficientnet_lite0", "imagenet")
    assert (plan.learning.epochs, plan.learning.batch, plan.learning.rate) == (12, 16, 4e-4)
    assert plan.learning.patience == plan.learning.epochs
    assert plan.learning.keep == "last"
    assert why["learning.keep"].why.startswith("100 tuning images")
    assert plan.learning.balance == "sampler"
    assert (plan.augmentation.rotation_deg, plan.augmentation.flip_vertical) == (180.0, True)
    assert plan.network.views == "flips"


@pytest.mark.parametrize(
    ("size", "machine", "backbone"),
    [
        (28, LAPTOP, "convnet"),
        (64, BARE, "convnet"),
        (65, LAPTOP, "efficientnet_lite0"),
        (512, BARE, "resnet18"),
    ],
)
def test_the_network_follows_size_and_weights(size, machine, backbone):
    plan, _ = planned(size=size, machine=machine, region="whole")
    assert (plan.network.backbone, plan.network.size) == (backbone, 0)
    assert plan.network.weights == ("imagenet" if backbone == "efficientnet_lite0" else "none")
    assert plan.learning.precision == ("bf16" if machine is LAPTOP else "fp32")
    assert plan.threads == (1 if size == 28 else 0)


@pytest.mark.parametrize(("size", "enlarged"), [(28, 112), (64, 128), (96, 0)])
def test_an_imagenet_network_that_was_asked_for_sees_small_images_enlarged(size, enlarged):
    plan, why = planned(size=size, given={"network.backbone": "efficientnet_lite0"})
    assert (plan.network.weights, plan.network.size) == ("imagenet", enlarged)
    assert why["network.backbone"].kind == "given"


def test_small_pictures_get_a_second_kind_of_network():
    plan, why = planned(size=28, region="whole", labels=(label(counts=(800, 280)),))
    beside = plan.beside
    assert (plan.network.backbone, beside.backbone) == ("convnet", "efficientnet_lite0")
    # 28 px in 3 cells of convnet; 96 px in 3 cells of 32 px
    assert (beside.weights, beside.size, beside.stride, beside.members) == ("imagenet", 96, 32, 1)
    assert (beside.epochs, beside.batch, beside.rate) == (12, 32, 5.7e-4)
    assert (plan.threads, beside.threads) == (1, 0)
    # decided by the same rows as a network that is alone, on the facts of its own backbone
    assert (plan.learning.balance, beside.balance) == ("none", "sampler")
    assert "204" not in why["beside.average"].why
    first, second = plan.kinds()
    assert (first.network, first.learning) == (plan.network, plan.learning)
    assert (second.network.views, second.learning.precision) == (
        plan.network.views, plan.learning.precision
    )  # fmt: skip
    assert second.learning.epochs == 12
    assert plan.backbones == "convnet+efficientnet_lite0"
    assert [one.seed for one in plan.each()] == list(range(plan.network.members + 1))


@pytest.mark.parametrize(
    "facts",
    [
        {"size": 28, "machine": BARE},  # no weights
        {"size": 40},  # a map that lite0 would need 160 px for
        {"size": 28, "labels": (label(counts=(20_000, 9_000)),)},  # enough to learn from
        {"size": 320},
        {"size": 28, "given": {"beside.backbone": "none"}},
    ],
)
def test_other_pictures_get_none(facts):
    plan, why = planned(**{"region": "whole", **facts})
    assert plan.beside.backbone == "none"
    assert len(plan.kinds()) == 1
    assert "beside.rate" not in why  # what there is none of has no lines


def test_a_second_kind_that_would_take_over_half_of_the_time_is_left_out():
    slow = replace(estimate(image_s=0.005), beside=estimate(image_s=0.2))
    few = {"size": 28, "region": "whole", "labels": (label(counts=(300, 100)),)}
    plan, why = planned(timed=slow, minutes=30.0, **few)
    assert (plan.beside.backbone, why["beside.backbone"].kind) == ("none", "trial")
    assert "of 30 min" in why["beside.backbone"].why
    assert plan.network.members == 5  # the time is theirs
    enough, _ = planned(timed=slow, minutes=60.0, **few)
    assert (enough.beside.backbone, enough.beside.members) == ("efficientnet_lite0", 1)
    two, why = planned(timed=slow, minutes=90.0, **few)
    assert (two.beside.members, why["beside.members"].kind) == (2, "trial")
    assert slow.of(two).total_s <= 60 * 90
    # what it takes is taken from the networks of the first kind
    less, _ = planned(timed=replace(slow, epochs=60), minutes=40.0, **few)
    assert less.beside.backbone == "efficientnet_lite0"
    assert replace(slow, epochs=60).of(less).total_s <= 60 * 40


def test_a_second_kind_that_was_asked_for_is_given_its_time():
    timed = replace(estimate(image_s=0.05), beside=estimate(image_s=0.05))
    assert 4 < timed.beside.networks_s / 60 < 6
    asked = {"beside.backbone": "resnet18"}
    alone, _ = planned(timed=replace(timed, beside=None), minutes=8.0)
    both, _ = planned(given=asked, timed=timed, minutes=8.0)
    assert both.beside.backbone == "resnet18"  # though it takes over half of the time
    assert both.learning.epochs < alone.learning.epochs
    assert timed.of(both).total_s <= 60 * 8
    three, _ = planned(given={**asked, "beside.members": 3}, timed=timed, minutes=30.0)
    assert timed.of(three).total_s <= 60 * 30


@pytest.mark.parametrize(
    ("size", "machine", "share"),
    [(448, LAPTOP, 0.6), (384, LAPTOP, 0.6), (320, LAPTOP, 0.0), (448, BARE, 0.0)],
)
def test_large_images_are_learned_from_smaller_ones_first(size, machine, share):
    plan, why = planned(size=size, machine=machine)
    assert plan.learning.small_epochs == share
    assert why["learning.small_epochs"].kind == "rule"


def test_a_gpu_carries_a_larger_network_and_batch():
    many = (label(counts=(40_000, 30_000)),)
    plan, _ = planned(labels=many, machine=SERVER, size=224)
    assert plan.network.backbone == "convnext_tiny"
    assert (plan.learning.batch, plan.learning.compile) == (64, True)


@pytest.mark.parametrize("name", ["laterality", "left_eye", "side_of_lesion"])
def test_a_label_that_says_left_or_right_is_never_mirrored(name):
    plan, why = planned(labels=(label(name=name),))
    change = plan.augmentation
    assert not change.flip_horizontal
    assert not change.flip_vertical
    assert change.rotation_deg <= 15
    assert plan.network.views == "one"
    assert name in why["augmentation.flip_horizontal"].why
    other, _ = planned(labels=(label(name="eyelid_tumour"),))
    assert other.augmentation.flip_horizontal


def test_a_class_that_says_left_or_right_is_never_mirrored():
    organs = label("label", "classes", (90, 80, 70), (20, 20, 20))
    sided = organs.model_copy(update={"classes": ("bladder", "femur-left", "femur-right")})
    plan, why = planned(labels=(sided,), size=28, region="whole")
    assert (plan.augmentation.flip_horizontal, plan.network.views) == (False, "one")
    assert "`label`" in why["network.views"].why
    eyes = organs.model_copy(update={"classes": ("OD", "OS", "both")})
    assert not planned(labels=(eyes,))[0].augmentation.flip_horizontal


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        (("abnormal", "normal"), (0,)),
        (("malignant", "normal or benign"), (0,)),
        (("normal", "abnormal"), ()),
        (("CNV", "DME", "drusen", "normal"), (0, 1, 2)),
        (("benign keratosis", "melanoma"), ()),
        (("0", "1"), ()),
        (("benign", "normal", "malignant"), ()),
    ],
)
def test_the_class_without_the_disease_is_not_the_positive_one(classes, positive):
    kind = "binary" if len(classes) == 2 else "classes"
    counts = (90,) * len(classes)
    plan, _ = planned(labels=(label("d", kind, counts, counts).model_copy(update={"classes": classes}),))  # fmt: skip
    assert plan.positive_classes == positive


def test_nobody_trains_for_sex_or_fold_or_quality_unless_asked_to():
    beside = [label("sex"), label("fold", "classes", (9, 9, 9)), label("quality_score", "ordinal", (9, 9, 9))]  # fmt: skip
    assert planned(labels=(*beside, label("cancer")))[0].labels == ("cancer",)
    assert planned(labels=(label("sex"),))[0].labels == ("sex",)
    asked, _ = planned(labels=(*beside, label("cancer")), given={"labels": ("sex",)})
    assert asked.labels == ("sex",)


def test_a_speed_that_was_not_measured_affords_nothing():
    unknown = replace(estimate(), speed=Speed(0.0, 0.0, 0.0, 0.0))
    assert planned(timed=unknown, size=28)[0].network.members == 1


GRADES = label("dr_grade", "ordinal", (200, 50, 80, 20, 10), (30, 5, 9, 2, 1), Cut(label="referable", grade=2, agreement=1.0))  # fmt: skip


def test_grades_go_first_and_their_cut_says_what_is_positive():
    plan, why = planned(labels=(label("referable"), GRADES))
    assert plan.labels == ("dr_grade",)
    assert plan.positive_classes == (2, 3, 4)
    assert "referable" in why["labels"].why
    assert "referable" in why["positive_classes"].why
    asked, why = planned(labels=(label("referable"), GRADES), given={"labels": ("referable",)})
    assert asked.labels == ("referable",)
    assert asked.positive_classes == ()
    assert why["labels"].kind == "given"


def test_binary_labels_share_a_network_unless_one_never_varies():
    plan, _ = planned(labels=(label("a"), label("b"), label("c", counts=(400, 0))))
    assert plan.labels == ("a", "b")


def test_calibration_and_operating_rule_follow_from_what_calibration_can_carry():
    enough, _ = planned(labels=(label(held_out=(60, 40)),))
    assert (enough.calibration, enough.operating.rule) == ("bias", "sensitivity")
    few, _ = planned(labels=(label(held_out=(20, 9)),))
    assert (few.calibration, few.operating.rule) == ("temperature", "youden")


def test_a_batch_that_does_not_fit_goes_in_parts():
    tight = estimate(image_bytes=GIB, available=8 * GIB)  # 6 images fit beside 1 GiB
    plan, why = planned(timed=tight)
    assert (plan.learning.batch, plan.learning.accumulate) == (16, 3)
    assert why["learning.accumulate"].kind == "trial"
    assert "17.0 GB" in why["learning.accumulate"].why
    assert tight.of(plan).fits


def test_more_networks_only_where_time_allows_and_they_are_small():
    quick = estimate(image_s=0.001)
    plan, why = planned(timed=quick, size=28)
    assert plan.network.members == 5
    assert why["network.members"].kind == "trial"
    slow, _ = planned(timed=estimate(image_s=0.5), size=28)
    assert slow.network.members < 5
    large, _ = planned(timed=quick)
    assert large.network.members == 1


def test_small_pictures_are_seen_often_whatever_their_number():
    epochs = [
        planned(labels=(label(counts=(count, count)),), size=28)[0].learning.epochs
        for count in (200, 2500, 50_000)
    ]
    assert epochs == [60, 28, 20]
    larger, _ = planned(labels=(label(counts=(50_000, 50_000)),), size=64)
    assert larger.learning.epochs == 5
    many, _ = planned(labels=(label(counts=(50_000, 50_000)),), size=224)
    assert many.learning.epochs == 2


def test_minutes_shorten_a_plan_only_if_they_were_given():
    slow = estimate(image_s=0.5)
    asked, why = planned(timed=slow, minutes=20.0)
    assert asked.learning.epochs < planned(timed=slow)[0].learning.epochs
    assert why["learning.epochs"].kind == "trial"
    assert slow.of(asked).total_s <= 20 * 60


def test_what_was_given_decides_what_depends_on_it():
    plan, why = planned(given={"network.backbone": "resnet18"})
    assert plan.network.weights == "none"
    assert plan.learning.rate == pytest.approx(1e-3)
    assert why["network.backbone"].kind == "given"


def test_an_estimate_is_linear_and_says_what_fits():
    known = estimate(image_bytes=100 * 2**20, available=4 * GIB)
    assert known.memory_bytes(16) - known.memory_bytes(8) == 800 * 2**20
    fitting = known.memory.largest_batch(4 * GIB)
    assert known.memory_bytes(fitting) <= 0.9 * 4 * GIB < known.memory_bytes(fitting + 1)
    assert replace(known, epochs=26).total_s == pytest.approx(2 * known.total_s - 15)
    assert replace(known, folds=5).total_s == pytest.approx(5 * known.total_s)
