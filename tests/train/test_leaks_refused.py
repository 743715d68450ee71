"""Training refuses splits that leak, unless somebody accepts it; run and card then say so."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.contract import Contract
from data_schemas.errors import TrainingError
from data_schemas.plan import Learning, NetworkPlan, Plan
from data_schemas.progress import silent
from pipeline.ingest.ingest import ingest
from pipeline.ingest.store import open_dataset
from pipeline.train.leaks import check_leaks
from pipeline.train.task import prepare

PLAN = Plan(network=NetworkPlan(backbone="convnet"), learning=Learning(epochs=1))


@pytest.fixture
def folder(tmp_path):
    """Forty drawn images of twenty patients; one image of `train` is one of `test`, darker."""
    source = tmp_path / "source"
    source.mkdir()
    generator = np.random.default_rng(0)
    lines = ["image,patient,split,sick"]
    pixels = generator.integers(0, 255, (40, 16, 16, 3)).astype(np.uint8)
    pixels[1] = pixels[39] * 0.8
    splits = ("train", "tune", "calibration", "test")
    for k in range(40):
        Image.fromarray(pixels[k]).save(source / f"{k}.png")
        lines.append(f"{k}.png,p{k // 2},{splits[k // 10]},{k // 2 % 2}")
    (source / "labels.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "dataset"
    contract = Contract(name="tiny", size=16)
    ingest(source, source / "labels.csv", out, contract, key=b"k" * 16, progress=silent)
    return out


def test_a_report_that_blocks_stops_training(folder):
    dataset = open_dataset(folder)
    assert dataset.info.leaks.blocking == 1
    with pytest.raises(TrainingError, match="1 findings block") as refused:
        prepare(dataset, PLAN)
    assert "almost the same picture" in refused.value.what
    assert "--drop-near-duplicates" in refused.value.what
    assert "--accept-leaks" in refused.value.mend


def test_who_accepts_leaks_is_quoted_in_run_and_card(folder):
    task = prepare(open_dataset(folder), PLAN.model_copy(update={"accept_leaks": True}))
    assert task.leaks == "1 accepted"
    assert any("in spite of 1 findings that block" in note for note in task.notes)


def test_without_a_report_patients_and_pixels_are_compared(folder):
    (folder / "leaks.json").unlink()
    task = prepare(open_dataset(folder), PLAN)  # the copy needs a look at pixels
    assert task.leaks == "patients and pixels only"
    path = folder / "manifest.parquet"
    table = pq.read_table(path)
    splits = ["tune" if k % 2 else "train" for k in range(table.num_rows)]
    place = table.column_names.index("split")
    pq.write_table(table.set_column(place, "split", pa.array(splits)), path)
    with pytest.raises(TrainingError, match="images in tune and train"):
        prepare(open_dataset(folder), PLAN)


def test_a_set_in_memory_has_nothing_to_examine(memory_set):
    assert check_leaks(memory_set(), accept=False).tag == "not examined"
