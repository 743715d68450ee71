"""The leak doctor on drawn data sets: every finding is provoked once, and nothing else is found."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_schemas.dataset import DatasetInfo
from data_schemas.progress import silent
from pipeline.evaluate import statistics
from pipeline.ingest.leaks import neighbours, shortcut
from pipeline.ingest.leaks.disc import disc_side
from pipeline.ingest.leaks.examine import examine, examine_quickly, kept_report
from pipeline.ingest.leaks.images import images_of
from pipeline.ingest.leaks.small import binned
from pipeline.ingest.store import Dataset, open_dataset
from services.cli.main import main

COUNT = 80


def textures(count: int = COUNT, side: int = 32, seed: int = 0) -> np.ndarray:
    """Pictures [N, side, side, 3] that share a bright middle and differ in everything else."""
    generator = np.random.default_rng(seed)
    across = np.linspace(-1, 1, side)
    middle = 60 * np.exp(-2 * (across[:, None] ** 2 + across[None, :] ** 2))
    coarse = generator.normal(0, 30, (count, 8, 8))
    fine = np.stack([np.asarray(Image.fromarray(c).resize((side, side), 3)) for c in coarse])
    grey = np.clip(90 + middle + fine, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


@dataclass
class Folder:
    """A data set in the making: files with rows of a label table."""

    path: Path
    rows: list[str]

    def add(self, name: str, pixels: np.ndarray, patient: str, label: int, **more: str) -> None:
        Image.fromarray(pixels).save(self.path / name)
        side, split = more.get("side", ""), more.get("split", "")
        self.rows.append(f"{name},{patient},{side},{split},{label}")


@pytest.fixture
def folder(tmp_path) -> Folder:
    """Two pictures of each of 40 patients, labels without meaning."""
    source = Folder(tmp_path / "source", ["image,patient,laterality,split,sick"])
    source.path.mkdir()
    for k, pixels in enumerate(textures()):
        split = "test" if k >= 60 else "train"
        source.add(f"{k:02}.png", pixels, f"P{k // 2}", (k // 2) % 3 % 2, side="LR"[k % 2], split=split)  # fmt: skip
    return source


@pytest.fixture
def examined(folder, take_in, contract):
    """Return a function that ingests the folder and examines it."""

    def run(**options) -> tuple:
        labels = folder.path / "labels.csv"
        labels.write_text("\n".join(folder.rows) + "\n")
        _, out = take_in(folder.path, labels, **options)
        dataset = open_dataset(out)
        return dataset, kept_report(dataset)

    return run


def changed(dataset: Dataset, **columns: list) -> Dataset:
    """The same data set with other columns in its manifest, as a careless script leaves it."""
    table = pq.read_table(dataset.folder / "manifest.parquet")
    metadata = table.schema.metadata
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    pq.write_table(table.replace_schema_metadata(metadata), dataset.folder / "manifest.parquet")
    return open_dataset(dataset.folder)


def kinds(report) -> list[tuple[str, str]]:
    return [(finding.kind, finding.severity) for finding in report.findings]


def resaved(pixels: np.ndarray) -> np.ndarray:
    """The same picture darker, with less contrast, after JPEG."""
    stream = io.BytesIO()
    Image.fromarray((pixels * 0.7 + 10).astype(np.uint8)).save(stream, "JPEG", quality=80)
    return np.asarray(Image.open(stream))


def test_a_clean_data_set_has_no_findings(examined):
    dataset, report = examined()
    assert report.findings == ()
    assert (dataset.info.leaks.blocking, dataset.info.leaks.warnings) == (0, 0)
    assert any("same patient, other eye: 40 patients" in line for line in report.examined)
    assert any("laterality" in line for line in report.not_examined)
    assert examine(dataset, silent) == report


def test_a_patient_in_two_splits_blocks(examined):
    dataset, _ = examined()
    split = ["test" if k % 2 else "train" for k in range(COUNT)]
    found = examine_quickly(changed(dataset, split=split))
    assert {finding.kind for finding in found} <= {"same_patient", "other_eye"}
    patients = dataset.patients()
    expected = {p for p in patients if len({split[k] for k in np.flatnonzero(patients == p)}) == 2}
    assert {finding.patients[0] for finding in found} == expected
    assert {finding.severity for finding in found} == {"blocks"}


def test_the_other_eye_in_another_split_is_told_apart(examined):
    dataset, _ = examined()
    sides = dataset.manifest["laterality"].to_pylist()
    eyes = changed(dataset, split=["test" if side == "L" else "train" for side in sides])
    assert {finding.kind for finding in examine_quickly(eyes)} == {"other_eye"}
    both = changed(dataset, laterality=["U"] * COUNT)
    assert {finding.kind for finding in examine_quickly(both)} == {"same_patient"}


def test_equal_pixels_in_two_splits_block_and_two_sealed_splits_do_not_leak(examined):
    dataset, _ = examined()
    digests = dataset.manifest["pixel_sha256"].to_pylist()
    splits = dataset.manifest["split"].to_pylist()
    one, other = splits.index("train"), splits.index("test")
    digests[one] = digests[other]
    found = examine_quickly(changed(dataset, pixel_sha256=digests))
    assert kinds_of(found) == [("same_pixels", "blocks")]
    sources = dataset.manifest["source_sha256"].to_pylist()
    assert found[0].source_sha256 == (sources[other], sources[one])
    sealed = ["external" if split == "train" else split for split in splits]
    assert examine_quickly(changed(dataset, split=sealed)) == ()


def kinds_of(findings) -> list[tuple[str, str]]:
    return [(finding.kind, finding.severity) for finding in findings]


def test_copies_in_another_split_are_named_with_their_remedy(folder, examined):
    pictures = textures()
    folder.add("copy.png", resaved(pictures[70]), "Q1", 0, split="train")
    folder.add("mirror.png", np.ascontiguousarray(pictures[71][:, ::-1]), "Q2", 1, split="train")
    folder.add("within.png", resaved(pictures[3]), "Q3", 0, split="train")
    dataset, report = examined()
    copies = [finding for finding in report.findings if finding.kind == "near_duplicate"]
    lines = dataset.manifest["label_line"].to_pylist()
    assert sorted(sorted(finding.label_lines) for finding in copies) == [[72, 82], [73, 83]]
    assert all(lines.count(line) == 1 for finding in copies for line in finding.label_lines)
    assert {finding.severity for finding in copies} == {"blocks"}
    by_line = {max(finding.label_lines): finding for finding in copies}
    assert "test " in by_line[82].sentence.split(" is almost")[0]
    assert "--drop-near-duplicates" in by_line[82].sentence
    assert "mirrored" in by_line[83].sentence
    assert "mirrored" not in by_line[82].sentence
    # the remedy
    dropped, after = examined(folder="again", drop_near_duplicates=True)
    assert not [finding for finding in after.findings if finding.kind == "near_duplicate"]
    assert dropped.info.refused["NEAR_DUPLICATE"] == 2
    assert dropped.info.splits["test"] == dataset.info.splits["test"]


def test_a_copy_with_another_label_is_a_contradiction(folder, examined):
    label = int(folder.rows[1 + 5].rpartition(",")[2])
    folder.add("copy.png", resaved(textures()[5]), "Q1", 1 - label, split="train")
    _, report = examined()
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("conflicting_label", "warns")
    assert sorted(finding.label_lines) == [7, 82]
    assert "`sick` 0 and 1" in finding.sentence


def test_a_picture_refused_for_two_labels_is_reported_with_both_lines(folder, examined):
    label = int(folder.rows[1 + 5].rpartition(",")[2])
    folder.add("twin.png", textures()[5], "Q1", 1 - label)
    dataset, report = examined()
    (finding,) = report.findings
    assert dataset.info.refused["CONFLICTING_LABEL"] == 2
    assert finding.kind == "conflicting_label"
    assert sorted(finding.label_lines) == [7, 82]
    assert len(finding.patients) == 2
    assert "different labels: `sick` 0 and 1" in finding.sentence


def test_one_person_under_two_numbers(folder, examined):
    """Q1 holds a photograph of P0 and one of its own, which the table puts into the test split."""
    label = int(folder.rows[1].rpartition(",")[2])
    folder.add("shared.png", textures()[0], "Q1", label, split="test")
    folder.add("own.png", textures(1, seed=9)[0], "Q1", 0, split="test")
    folder.rows[1] = folder.rows[1].replace("train", "")
    folder.rows[2] = folder.rows[2].replace("train", "")
    dataset, report = examined()
    patients = {dataset.patients()[k]: k for k in range(len(dataset.patients()))}
    assert len(patients) == 41
    # nobody said where P0 belongs: both numbers went to one split
    assert report.findings == ()
    folder.rows[2] = folder.rows[2][:-2].rpartition(",")[0] + f",train,{label}"
    _, report = examined(folder="again")
    assert kinds(report) == [("same_patient", "blocks")]
    assert "seem to be one person" in report.findings[0].sentence


def test_a_device_that_predicts_the_label_is_reported_and_chance_is_not(examined):
    dataset, _ = examined()
    sick = dataset.labels("sick")
    coin = np.random.default_rng(1).integers(0, 2, COUNT)
    split = changed(
        dataset,
        device=[f"camera {value}" for value in sick],
        site=[f"site {value}" for value in coin],
        source_rows=(30 + 5 * sick + coin).tolist(),
    )
    report = examine(split, silent)
    assert {finding.kind for finding in report.findings} == {"shortcut"}
    told = {finding.sentence.split(" alone")[0]: finding for finding in report.findings}
    assert set(told) == {"the device", "the height of the source", "the size of the source"}
    assert told["the height of the source"].value == 1.0
    assert told["the device"].severity == "warns"


def test_strengths_are_the_textbook_ones():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    values = np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.6, 0.8, 0.9, 0.7, 0.2])
    found = shortcut._of_number("x", values, truth)
    assert found.strength == pytest.approx(statistics.auc(truth, values))
    # 30, 10 / 10, 30 of 80 images: phi squared is 0.25, Bergsma takes 1/79 off both parts
    kind = np.repeat(["a", "b"], 40)
    label = np.concatenate([np.repeat([0, 1], [30, 10]), np.repeat([0, 1], [10, 30])])
    found = shortcut._of_category("x", kind, label)
    assert found.strength == pytest.approx(np.sqrt((0.25 - 1 / 79) / (1 - 1 / 79)))
    assert found.p == pytest.approx(1 / 2000)
    assert shortcut._of_category("x", np.arange(80).astype(str), label) is None


def test_a_published_test_split_is_only_warned_about(examined):
    dataset, _ = examined()
    info = dataset.info.model_copy(update={"published_test": True})
    info.write_json(dataset.folder / "dataset.json")
    mixed = changed(dataset, split=["test" if k % 2 else "train" for k in range(COUNT)])
    assert {finding.severity for finding in examine_quickly(mixed)} == {"warns"}


def test_blocks_find_what_one_matrix_finds(monkeypatch):
    pictures = textures(60)
    pictures = np.concatenate([pictures, np.stack([resaved(p) for p in pictures[:9]])])

    def pairs():
        found = neighbours.near_copies(lambda k: pictures[k], len(pictures), silent)
        return {(pair.first, pair.second) for pair in found}

    whole = pairs()
    assert whole == {(k, 60 + k) for k in range(9)}
    for name, size in (("_ROWS", 7), ("_COLUMNS", 11), ("_READ", 5)):
        monkeypatch.setattr(neighbours, name, size)
    assert pairs() == whole


def test_small_pictures_are_means():
    pictures = np.random.default_rng(0).integers(0, 255, (2, 30, 30, 3)).astype(np.uint8)
    small = binned(pictures, 10)
    assert small.shape == (2, 10, 10, 3)
    assert small[1, 2, 3] == pytest.approx(pictures[1, 6:9, 9:12].mean((0, 1)))
    assert binned(pictures, 64).shape == pictures.shape
    uneven = binned(pictures, 7)
    assert uneven.mean() == pytest.approx(pictures.mean(), abs=3)


def photograph(disc_x: float, side: int = 160, seed: int = 0) -> np.ndarray:
    """A field of view with a bright disc and vessels that leave it up and down."""
    generator = np.random.default_rng(seed)
    down, across = np.mgrid[:side, :side] / (side / 2) - 1
    pixels = np.zeros((side, side, 3))
    pixels[...] = (150, 70, 30)
    pixels += generator.normal(0, 3, pixels.shape)
    near = np.hypot(down, across - disc_x)
    pixels[near < 0.14] = (230, 190, 120)
    bend = disc_x * (1 - 0.5 * down**2)
    for shift in (-0.03, 0.03):
        pixels[np.abs(across - bend - shift) < 0.012] = (110, 30, 20)
    pixels[np.hypot(down, across) > 0.97] = 0
    return np.clip(pixels, 0, 255).astype(np.uint8)


def test_the_discs_side_is_seen():
    found = disc_side(np.stack([photograph(0.5), photograph(-0.5), photograph(0.4, seed=1)]))
    assert found[0] > 0.6
    assert found[1] < -0.6
    assert found[2] > 0.6
    # a mirrored photograph is the other eye's
    mirrored = np.ascontiguousarray(photograph(0.5)[:, ::-1])[None]
    assert disc_side(mirrored)[0] == pytest.approx(-found[0], abs=0.05)


def test_the_command_prints_keeps_and_blocks(examined, capsys):
    dataset, _ = examined()
    folder = str(dataset.folder)
    assert main(["leaks", folder, "--strict"]) == 0
    assert "0 findings block" in capsys.readouterr().out
    split = ["test" if k % 2 else "train" for k in range(COUNT)]
    changed(dataset, split=split)
    assert main(["leaks", folder]) == 0
    shown = capsys.readouterr().out
    assert "more (--all" in shown
    assert main(["leaks", folder, "--strict", "--json"]) == 1
    tree = json.loads(capsys.readouterr().out)
    info = DatasetInfo.read_json(dataset.folder / "dataset.json")
    assert info.leaks.blocking == sum(f["severity"] == "blocks" for f in tree["findings"]) > 0
    assert kept_report(open_dataset(dataset.folder)).blocking == info.leaks.blocking
    # nothing that a label table says of a person stands in the report
    text = (dataset.folder / "leaks.json").read_text()
    assert not any(f'"{word}"' in text or f"{word}.png" in text for word in ("P1", "P12", "03"))


def test_a_report_of_other_content_is_not_believed(examined):
    dataset, report = examined()
    report.model_copy(update={"content_sha256": "0" * 64}).write_json(dataset.folder / "leaks.json")
    assert kept_report(dataset) is None


def test_lateralities_that_contradict(examined):
    """Of 40 patients one has swapped eyes, one a single wrong one; then all pictures are mirrored."""
    from pipeline.ingest.leaks.sides import contradicting_sides

    dataset, _ = examined()
    images = images_of(dataset)
    truth = np.array([-0.9 if side == "L" else 0.9 for side in images.laterality])
    order = np.unique(images.patient)
    swapped, single = (np.flatnonzero(images.patient == order[k]) for k in (3, 8))
    disc = truth.copy()
    disc[swapped] *= -1
    disc[single[0]] *= -1
    disc[single[1]] = 0.01
    found, note = contradicting_sides(images, disc)
    assert [len(finding.source_sha256) for finding in found] == [2, 1]
    assert found[0].sentence.startswith("both eyes of patient")
    assert "surely contradicts in 3" in note
    (one,), _ = contradicting_sides(images, -truth)
    assert "swapped throughout" in one.sentence
    assert one.value == 1.0
