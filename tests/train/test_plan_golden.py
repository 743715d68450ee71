"""The plans of three data sets, line by line, on a machine that is always the same.

A change of the rules changes them: look at the difference, then write them anew with
``python tests/train/test_plan_golden.py``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_schemas import settings
from data_schemas.contract import Contract
from data_schemas.fingerprint import Machine
from data_schemas.progress import silent
from pipeline.ingest.ingest import Options, ingest
from pipeline.ingest.store import open_dataset
from pipeline.train.plan.facts import Facts
from pipeline.train.plan.fingerprint import measure
from pipeline.train.plan.rules import decide
from pipeline.train.plan.write import render

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden_plans"
SHARED = ROOT / "../shared/data/medmnist"
LAPTOP = Machine(
    cores=2,
    memory_bytes=8 * 2**30,
    bf16=True,
    versions={},
    pretrained=("efficientnet_lite0",),
)
SETS = ("retinamnist", "breastmnist", "drawn_fundus")


def draw(folder):
    """20 photographs of 10 patients: an orange disc on black, with both grades and a yes or no."""
    generator = np.random.default_rng(0)
    rows = ["image,patient,laterality,split,dr_grade,referable"]
    y, x = np.mgrid[-1:1:200j, -1:1:260j]
    inside = (x * 1.3) ** 2 + y**2 < 0.9
    splits = ["train"] * 5 + ["tune"] * 2 + ["calibration"] * 2 + ["test"]
    for patient, split in enumerate(splits):
        for side in "LR":
            grade = (2 * patient + (side == "R")) % 5
            picture = np.zeros((200, 260, 3), np.uint8)
            picture[inside] = (160, 90, 40)
            noise = generator.integers(0, 40, picture.shape)
            picture[inside] += noise[inside].astype(np.uint8)
            Image.fromarray(picture).save(folder / f"{patient}{side}.png")
            rows.append(f"{patient}{side}.png,p{patient},{side},{split},{grade},{int(grade >= 2)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def contract(name, *words):
    layers = [settings.from_file(ROOT / f"configs/contracts/{name}.yaml")]
    return settings.resolve(Contract, [*layers, settings.from_assignments(list(words))])


def planned(name, work):
    """Return the lines of the plan of one of :data:`SETS`, without its head."""
    if name == "drawn_fundus":
        source, table = work / "source", work / "source/labels.csv"
        source.mkdir()
        draw(source)
        recipe = contract("fundus", "size=192", "quality.check=false")
    else:
        source, table, recipe = SHARED / f"{name}.npz", None, contract("medmnist")
        if not source.exists():
            pytest.skip(f"needs ../shared/data/medmnist/{name}.npz")
    options = Options(examine=False, workers=1)
    ingest(source, table, work / name, recipe, key=b"k" * 16, progress=silent, options=options)
    found = measure(open_dataset(work / name), LAPTOP)
    text = render(decide(Facts(found)), found, None)
    return text.partition("\n\n")[2]


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", SETS[:2])
def test_the_plan_of_a_real_set(name, tmp_path):
    assert planned(name, tmp_path) == (GOLDEN / f"{name}.yaml").read_text()


def test_the_plan_of_drawn_photographs(tmp_path):
    assert planned(SETS[2], tmp_path) == (GOLDEN / f"{SETS[2]}.yaml").read_text()


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SETS:
        with tempfile.TemporaryDirectory() as scratch:
            (GOLDEN / f"{chosen}.yaml").write_text(planned(chosen, Path(scratch)))
