"""What a plan measures: a data set's fingerprint, the memory within cgroups, memory and time of steps."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_schemas.errors import TrainingError
from data_schemas.fingerprint import Cut
from data_schemas.plan import Learning, NetworkPlan, Plan
from pipeline.ingest.store import open_dataset
from pipeline.train.plan import machine as machines
from pipeline.train.plan.estimate import Shape, measure_memory, measure_speed
from pipeline.train.plan.fingerprint import best_cut, black_border, measure
from pipeline.train.plan.machine import available_memory
from pipeline.train.plan.room import refuse_without_room
from pipeline.train.world import World
from services.cli.main import main

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """48 drawn photographs of 24 patients with grades, one of them unknown, as ingestion stores them."""
    folder = tmp_path_factory.mktemp("eyes")
    source = folder / "source"
    source.mkdir()
    generator = np.random.default_rng(0)
    rows = ["image,patient,laterality,split,dr_grade,referable"]
    splits = ["train"] * 14 + ["tune"] * 4 + ["calibration"] * 3 + ["test"] * 3
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    inside = (x * 4 / 3) ** 2 + y**2 < 0.9
    for patient, split in enumerate(splits):
        for side in "LR":
            grade = (patient + (side == "R")) % 5
            picture = np.zeros((60, 80, 3), np.uint8)
            picture[inside] = (150, 80, 30)
            noise = generator.integers(0, 40, picture.shape)
            picture[inside] += noise[inside].astype(np.uint8)
            Image.fromarray(picture).save(source / f"{patient}{side}.png")
            known = "" if patient == 0 and side == "L" else grade
            rows.append(f"{patient}{side}.png,p{patient},{side},{split},{known},{int(grade >= 2)}")
    (source / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "key").write_text("not a secret, this is a test")
    words = ["ingest", str(source), "--labels", str(source / "labels.csv"), "--out", str(folder / "set"),
             "--set", "size=32", "--workers", "1", "--key-file", str(folder / "key")]  # fmt: skip
    assert main(words) == 0
    return open_dataset(folder / "set")


def test_a_fingerprint_counts_what_there_is(eyes):
    found = measure(eyes)
    assert (found.images["train"], found.patients["train"]) == (28, 14)
    assert found.images_per_patient.median == 2
    assert (found.source_side.low, found.source_side.high) == (60, 60)
    assert found.laterality_known == 1.0
    assert found.formats == {"png": 48}
    grade, referable = found.labels
    assert (grade.kind, grade.missing["train"], grade.known("train")) == ("ordinal", 1, 27)
    assert sum(referable.counts["train"]) == 28
    assert grade.cut == Cut(label="referable", grade=2, agreement=1.0)
    assert found.intensity.images == 28
    red, green, blue = found.intensity.mean
    assert red > green > blue
    assert found.intensity.colour > 10
    assert 0.2 < found.intensity.black_border < 0.6
    assert found.machine.versions["torch"] == torch.__version__
    # the memory that is free changes from moment to moment
    again = measure(eyes)
    assert again == found.model_copy(update={"machine": again.machine})


def test_brightness_is_of_training_images_only(eyes):
    rows = eyes.indices("train")
    pixels = eyes.pixels(rows).reshape(-1, 3).astype(float)
    found = measure(eyes).intensity
    assert found.mean == tuple(np.round(pixels.mean(0), 2))
    assert found.sd == tuple(np.round(pixels.std(0), 2))


def test_the_black_border_is_what_is_black_from_an_edge_inwards():
    image = np.full((1, 4, 6, 1), 200, np.uint8)
    image[0, 0] = 0  # a black row: all of it
    image[0, 1, :2] = 5  # black from the left
    image[0, 2, 5] = 10
    image[0, 3, 2:4] = 0  # black in the middle is no border
    assert black_border(image)[0].sum(axis=1).tolist() == [6, 2, 1, 0]


def test_a_cut_needs_both_classes_and_agreement():
    grades = np.array([0, 1, 2, 3, 4, -1] * 20)
    referable = (grades >= 2).astype(np.int64)
    assert best_cut(grades, {"any": (grades >= 1).astype(np.int64)}).grade == 1
    assert best_cut(grades, {"odd": grades % 2, "referable": referable}).label == "referable"
    assert best_cut(grades, {"odd": grades % 2, "always": np.ones_like(grades)}) is None
    nearly = referable.copy()
    nearly[0] = 1
    assert best_cut(grades, {"nearly": nearly}).agreement == pytest.approx(0.99)


GIB = 2**30


@pytest.mark.parametrize(
    ("files", "groups", "room"),
    [
        ({"memory.max": GIB, "memory.current": GIB // 2, "memory.stat": "inactive_file 1024\n"}, "0::/\n", GIB // 2 + 1024),
        ({"memory.max": "max", "memory.current": 5}, "0::/\n", None),
        ({"a/b/memory.max": GIB // 4, "a/b/memory.current": 0, "a/memory.max": GIB // 8, "a/memory.current": 0},
         "0::/a/b\n", GIB // 8),
        ({"memory/x/memory.limit_in_bytes": GIB, "memory/x/memory.usage_in_bytes": 24}, "4:memory:/x\n0::/\n", GIB - 24),
        ({"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": 24}, "4:memory:/x\n", None),
        ({"memory.max": 100, "memory.current": 4000}, "0::/\n", 0),
        ({"memory.max": "much", "memory.current": 0}, "nonsense", None),
    ],
)  # fmt: skip
def test_available_memory_knows_both_kinds_of_cgroups(files, groups, room, tmp_path, monkeypatch):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "own").write_text(groups)
    machine = type("Memory", (), {"available": 100 * GIB})()
    monkeypatch.setattr(machines.psutil, "virtual_memory", lambda: machine)
    found = available_memory(tmp_path, tmp_path / "own")
    assert found == (100 * GIB if room is None else room)


SHAPE = Shape(outputs=1, size=32, channels=3, train=100, tune=20)


def small(batch=32, **more):
    return Plan(network=NetworkPlan(backbone="convnet", stride=8), learning=Learning(batch=batch), **more)  # fmt: skip


def test_memory_is_what_autograd_keeps_and_grows_with_the_image():
    memory = measure_memory(small(), SHAPE, CPU)
    # the first convolution alone keeps its float32 input and its 32 maps
    assert memory.image_bytes > 32 * 32 * (3 + 32) * 4
    assert measure_memory(small(), SHAPE, CPU) == memory
    double = Shape(1, 64, 3, 100, 20)
    assert measure_memory(small(), double, CPU).image_bytes == pytest.approx(4 * memory.image_bytes, rel=0.02)  # fmt: skip
    half = small().model_copy(update={"learning": Learning(precision="bf16")})
    assert measure_memory(half, SHAPE, CPU).image_bytes < memory.image_bytes


def test_a_step_takes_time_and_more_images_more():
    speed = measure_speed(small(8), SHAPE, CPU, seconds=0.5)
    assert speed.image_s > speed.forward_s > 0
    assert speed.step_s >= 0
    assert speed.augment_s > 0


_RUN = """
import sys, torch
from pathlib import Path
from data_schemas.plan import Learning, NetworkPlan
from pipeline.train import networks
from pipeline.train.loop import Training
from pipeline.train.precision import suit
torch.set_num_threads(1)
backbone, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = networks.build(NetworkPlan(backbone=backbone), 1, size)
suit(network, torch.device("cpu"), "fp32")
training = Training(network, Learning(average=0.9), 10)
for _ in range(2):
    network(torch.zeros((batch, size, size, 3), dtype=torch.uint8))[0].mean().backward()
    training.take_step(0.0, 0.0)
# not ru_maxrss, which begins at what the parent held when it forked
peak = next((x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")), "- 0")
print(int(peak.split()[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("convnet", 64), ("resnet18", 96)])
def test_memory_of_real_steps_is_as_foretold(backbone, size):
    """The growth of a fresh process's peak from a small to a large batch, within 30 %."""
    peaks = []
    for batch in (4, 36):
        command = [sys.executable, "-c", _RUN, backbone, str(size), str(batch)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    if not all(peaks):
        pytest.skip("needs VmHWM in /proc/self/status")
    plan = Plan(network=NetworkPlan(backbone=backbone))
    memory = measure_memory(plan, Shape(1, size, 3, 100, 20), CPU)
    assert memory.bytes_at(36) - memory.bytes_at(4) == pytest.approx(peaks[1] - peaks[0], rel=0.3)


def test_what_does_not_fit_is_refused_with_the_place_and_what_would(eyes, monkeypatch):
    from data_schemas import settings
    from pipeline.train.plan import room

    text = "labels: [referable]\nnetwork: {backbone: convnet}\nlearning:\n  batch: 512\n"
    layers = [settings.from_text(text, "plan.yaml")]
    plan = settings.resolve(Plan, layers)
    memory = measure_memory(plan, Shape(1, 32, 3, 0, 0), CPU)
    monkeypatch.setattr(room, "memory_for", lambda _: int(memory.bytes_at(100) / 0.9) + 1)
    with pytest.raises(TrainingError) as raised:
        refuse_without_room(plan, eyes, World(), 1)
    assert str(raised.value).startswith("learning.batch: batch 512 needs ")
    assert "you have " in str(raised.value)
    assert "try learning.batch 64, or learning.accumulate 6" in raised.value.mend
    # in parts, or shared by two processes of other machines, it fits
    parts = settings.resolve(Plan, [*layers, settings.from_assignments(["learning.accumulate=6"])])
    refuse_without_room(parts, eyes, World(), 1)
    refuse_without_room(plan, eyes, World(0, 6), 1)
    monkeypatch.setattr(room, "memory_for", lambda _: 100 * MIB)
    with pytest.raises(TrainingError) as raised:
        refuse_without_room(plan, eyes, World(), 1)
    assert "not one image fits" in raised.value.mend


def test_the_estimate_itself_takes_no_memory_that_a_batch_would():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = Plan(network=NetworkPlan(backbone="resnet18"), learning=Learning(batch=4096))
    memory = measure_memory(plan, Shape(1, 96, 3, 5000, 20), CPU)
    assert memory.bytes_at(4096) > 10 * GIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024
