"""plan.yaml: a reason on every line, the same plan when read again, and nobody's edits lost."""

import re

import pytest
import yaml

from data_schemas import settings
from data_schemas.errors import ConfigError, TrainingError, UsageError
from data_schemas.fingerprint import Fingerprint, Intensity, LabelFacts, Machine
from data_schemas.plan import Plan
from data_schemas.terms import SPLITS
from pipeline.train.advice import smaller_batch
from pipeline.train.faults import out_of_memory
from pipeline.train.plan.cost import Estimate, Memory, Speed, duration, gigabytes
from pipeline.train.plan.facts import Facts
from pipeline.train.plan.make import plan_of
from pipeline.train.plan.rules import decide
from pipeline.train.plan.write import inspect, render, summary, write_plan
from pipeline.train.world import World
from services.cli.planning import placed

GIB = 2**30
COST = Estimate(
    memory=Memory(GIB, 100 * 2**20),
    speed=Speed(0.01, 0.05, 0.02, 0.001),
    available_bytes=24 * GIB,
    device="cpu",
    cores=2,
    images=300,
    tune=60,
    batch=16,
    accumulate=1,
    epochs=10,
    members=1,
    around_s=15.0,
)
COUNTS = dict.fromkeys(SPLITS, (40, 20))
LABELS = (
    LabelFacts(name="a", kind="binary", classes=("0", "1"), counts=COUNTS, missing={}),
    LabelFacts(name="b", kind="binary", classes=("0", "1"), counts=COUNTS, missing={}),
)
PRINT = Fingerprint(
    dataset="eyes",
    dataset_sha256="c0ffee" + "0" * 58,
    contract="fundus",
    region="fundus_field",
    modalities={"OP": 60},
    formats={"jpeg": 300},
    size=320,
    channels=3,
    images=dict.fromkeys(SPLITS, 60),
    patients=dict.fromkeys(SPLITS, 30),
    images_per_patient=None,
    source_side=None,
    laterality_known=1.0,
    folds=5,
    labels=LABELS,
    intensity=Intensity(images=60, mean=(90, 60, 30), sd=(9, 9, 9), colour=20.0, black_border=0.2),
    machine=Machine(cores=2, memory_bytes=24 * GIB, bf16=True, versions={}, pretrained=()),
)


@pytest.fixture
def written(tmp_path):
    decisions = decide(Facts(PRINT, estimate=COST))
    plan = plan_of(decisions, settings.Layer({}))
    path = tmp_path / "plan.yaml"
    write_plan(path, render(decisions, PRINT, COST.of(plan)), PRINT)
    return path, plan, decisions


def read(path):
    return settings.resolve(Plan, [settings.from_file(path)])


def test_it_reads_back_as_the_very_plan_and_every_line_has_a_reason(written):
    path, plan, decisions = written
    assert read(path) == plan
    assert read(path).digest() == plan.digest()
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert all(re.search(r"  # \S", line) for line in lines)
    kinds = [re.search(r"# (fixed|rule|trial|given): \S", line) for line in lines]
    assert sum(kind is not None for kind in kinds) == len(decisions) + 1  # and schema_version
    assert Fingerprint.read_json(path.with_name("fingerprint.json")) == PRINT


def test_the_head_says_what_it_takes(written):
    head = written[0].read_text().partition("\n\n")[0]
    assert "60 training images of 30 patients, 320 px" in head
    assert "Needs 1.8 GB of memory, you have 24 GB." in head  # 1 GiB, and 8 times 100 MiB
    assert "Takes about" in head


def test_what_is_unedited_is_written_over_and_what_is_edited_is_not(written, tmp_path):
    path, _, _ = written
    text = path.read_text()
    assert not inspect(path).edited
    assert inspect(path).dataset == PRINT.dataset_sha256[:16]
    write_plan(path, text, PRINT)
    for edit in (
        text.replace("warmup: 0.1 ", "warmup: 0.2 "),
        text.replace("# How to train", "# how to train"),
        text + "# mine\n",
        text.replace("\n\n", "\n", 1),
        "learning: {epochs: 3}\n",
        "",
    ):
        assert edit != text
        path.write_text(edit)
        assert inspect(path).edited
        with pytest.raises(UsageError, match="edited"):
            write_plan(path, text, PRINT)
        assert path.read_text() == edit
    write_plan(path, text, PRINT, force=True)
    assert path.read_text() == text


def test_another_file_keeps_its_fingerprint_beside_it(written, tmp_path):
    write_plan(tmp_path / "b" / "quick.yaml", written[0].read_text(), PRINT)
    assert {file.name for file in (tmp_path / "b").iterdir()} == {
        "quick.yaml",
        "quick.fingerprint.json",
    }


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epochs: ", "epochs: few #", "learning.epochs: input should be a valid integer"),
        ("  batch: ", "  bach: ", "learning.bach: is not a known key; did you mean `learning.batch`?"),
        ("balance: none", "balance: some", "learning.balance: input should be"),
        ("  rate: ", "  rate: 1\n  rate: ", "learning.rate: stands twice in this file"),
        ("schema_version: 2", "schema_version: [", "is not YAML"),
        ("schema_version: 2", "schema_version: 1", "schema_version: input should be 2, got 1"),
    ],
)  # fmt: skip
def test_a_plan_edited_wrongly_ends_with_file_line_and_key(written, old, new, told):
    path, _, _ = written
    text = path.read_text()
    assert old in text
    place = text[: text.index(old)].count("\n") + 1 + new.count("\n")
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as raised:
        read(path)
    fault = str(raised.value.faults[0])
    assert told in fault
    if "YAML" not in told:
        assert fault.startswith(f"{path}:{place}: ")


def test_an_error_that_names_a_setting_gets_its_file_and_line(written):
    path, plan, _ = written
    lines = path.read_text().splitlines()
    place = next(k for k, line in enumerate(lines, 1) if line.startswith("  batch:"))
    layers = [settings.from_file(path), settings.from_assignments(["seed=1"])]
    with pytest.raises(TrainingError) as raised, placed(layers):
        raise out_of_memory(plan, World())
    told = str(raised.value)
    assert told.startswith(
        f"{path}:{place}: learning.batch: batch 8 did not fit into memory: try 4"
    )
    for error, where in (
        (TrainingError("no", where="seed"), "--set seed=1: seed"),
        (TrainingError("no", where="labels"), f"{path}:"),
        (TrainingError("no", where="some/folder"), "some/folder"),
        (TrainingError("no"), None),
    ):
        with pytest.raises(TrainingError) as raised, placed(layers):
            raise error
        assert (raised.value.where or "").startswith(where or "")
    assert [smaller_batch(plan, fitting) for fitting in (100, 7, 5, 1, 0)] == [4, 4, 4, 1, 4]


@pytest.mark.parametrize(
    ("size", "said"), [(0.94, "0.94 GB"), (4, "4 GB"), (11.2, "11.2 GB"), (150.7, "151 GB")]
)
def test_sizes_and_times_can_be_read(size, said):
    assert gigabytes(size * GIB) == said
    assert (duration(40), duration(720), duration(11100)) == ("40 s", "12 min", "3 h 05 min")


def test_one_line_says_what_a_training_takes():
    assert summary(COST) == (
        "Needs 2.6 GB of memory, you have 24 GB. Takes about 3 min on 2 cores: 10 epochs of 17 s."
    )
    assert yaml.safe_load("a: 1  # " + summary(COST)) == {"a": 1}
