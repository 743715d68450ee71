"""How many of a model's own test images are called out of scope, and how many foreign ones are caught.

    python benchmarks/scope/run.py [--models retina,pneumonia,fundus] [--out FOLDER]

Trains a small network of each set by the plan of `hilum plan`, cut short (a few epochs, one member: what is
measured is the package's reference, not the network), and shows its package images of its own test split and
images that it wasn't made for. Beside the score that ships stand simpler ones, all with the same limit rule on
the same calibration images. Trainings are kept in FOLDER.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

from calling import SHARED, Place  # noqa: E402
from timing import table  # noqa: E402

from data_schemas.contract import Accept  # noqa: E402
from data_schemas.errors import ImageError  # noqa: E402
from pipeline.imaging.prepare import prepare  # noqa: E402
from pipeline.imaging.read import read  # noqa: E402
from pipeline.ingest.store import open_dataset  # noqa: E402
from pipeline.model.package import Package, open_package  # noqa: E402
from pipeline.model.reference import limit_of, looks  # noqa: E402
from pipeline.model.runtime import Runtime  # noqa: E402
from pipeline.model.scoring import score_bytes  # noqa: E402
from pipeline.tracking.finding import download  # noqa: E402

MEDMNIST = ("retina", "pneumonia", "breast")
MOST = 300
EPOCHS = {"retina": 25, "pneumonia": 6, "fundus": 2}


def main() -> None:
    """Train what isn't kept, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--models", default="retina,pneumonia,fundus")
    parser.add_argument("--out", type=Path, default=Path("benchmark-scope"))
    options = parser.parse_args()
    place = Place(options.out.resolve())
    for name in options.models.split(","):
        print(measured(name, place), flush=True)


def measured(name: str, place: Place) -> str:
    """Return the tables of one model."""
    package = trained(name, place)
    reference = package.reference
    assert reference is not None
    runtime = Runtime(package, threads=1)
    sets = pictures(name, place, package)
    seen = {what: (looked(runtime, images), images) for what, images in sets.items()}
    limits = {what: score(seen["calibration"]) for what, score in scores(seen["train"], package).items()}  # fmt: skip
    rows = []
    for what in [one for one in sets if one not in ("train", "calibration")]:
        found = [len(sets[what])]
        for score_name, score in scores(seen["train"], package).items():
            limit, _ = limit_of(limits[score_name])
            found.append(f"{100 * np.mean(score(seen[what]) > limit):.0f} %")
        rows.append((what, *found))
    head = ("images", "number", *limits)
    return f"""### {name}: {package.card.backbone}, {package.card.size} px

{reference.images} training images, {reference.held_out} held out ({reference.split}): limit \
{reference.limit:.3g}, at most {100 * reference.rate:.1f} % false alarms expected. Shares called outside:

{table(head, rows)}

{files(package, runtime)}
"""


def trained(name: str, place: Place) -> Package:
    """Return the package of a short training; it is trained unless it is kept."""
    kept = place.folder / f"{name}-package"
    if not kept.is_dir():
        dataset = place.folder / name
        if not (dataset / "dataset.json").is_file():
            place.hilum("ingest", *source(name), "--out", dataset, "--key-file", place.key(), "--name", name)  # fmt: skip
        if not (dataset / "plan.yaml").is_file():
            place.hilum("plan", dataset)
        call = place.train(name, dataset, *("--set", f"learning.epochs={EPOCHS[name]}"),
                           *("--set", "network.members=1", "--set", "network.views=one"))  # fmt: skip
        with tempfile.TemporaryDirectory(dir=place.folder) as scratch:
            download(place.uri, call.answer["run_id"], "package", Path(scratch)).rename(kept)
    return open_package(kept)


def source(name: str) -> tuple[object, ...]:
    """Return what `hilum ingest` is told."""
    if name in MEDMNIST:
        return (SHARED / f"medmnist/{name}mnist.npz", "--contract", "medmnist")
    return (SHARED / "fundus_rahim/images", "--labels", SHARED / "fundus_rahim/labels.csv",
            "--label", "dr_grade", "--ordinal", "dr_grade=0,1,2,3,4", "--contract", "fundus",
            "--set", "size=128", "--shares", "train=.55,tune=.1,calibration=.2,test=.15")  # fmt: skip


def pictures(name: str, place: Place, package: Package) -> dict[str, np.ndarray]:
    """Return the sets of images, uint8 [N, S, S, C]: the model's own, those changed, and foreign ones."""
    dataset = open_dataset(place.folder / name)
    size, channels = package.card.size, package.card.channels

    def own(split: str) -> np.ndarray:
        rows = dataset.indices(split)
        return dataset.pixels(rows[:: max(1, len(rows) // 1000)])

    def fitted(images: list[np.ndarray]) -> np.ndarray:
        scaled = [np.asarray(Image.fromarray(one).convert("RGB" if channels == 3 else "L").resize((size, size))) for one in images]  # fmt: skip
        return np.stack(scaled).reshape(len(images), size, size, channels)

    test, random = own("test")[:MOST], np.random.default_rng(0)
    sets = {"train": own("train"), "calibration": own("calibration"), "own test images": test}
    for other in MEDMNIST:
        if other != name and not (name == "fundus" and other == "retina"):
            with np.load(SHARED / f"medmnist/{other}mnist.npz") as arrays:
                sets[f"{other}mnist"] = fitted(list(arrays["test_images"][:MOST]))
    if name != "fundus":
        some = sorted((SHARED / "fundus_rahim/images").iterdir())[:100]
        sets["photographs of the retina"] = fitted([np.asarray(Image.open(one)) for one in some])
    sets["pictures of DICOM files"] = fitted(list(dicom_pictures(package)))
    sets["noise"] = random.integers(0, 256, (200, size, size, channels), np.uint8)
    coarse = random.integers(0, 256, (200, 5, 5, 3), np.uint8)
    sets["soft blobs"] = fitted([np.asarray(Image.fromarray(one).resize((size, size))) for one in coarse])  # fmt: skip
    sets["own, as negatives"] = 255 - test
    sets["own, without colour"] = np.repeat(
        test.mean(3, keepdims=True).astype(np.uint8), channels, 3
    )
    sets["own, red and blue swapped"] = np.ascontiguousarray(test[..., ::-1])
    sets["own, a third as bright"] = test // 3
    sets["own, upside down"] = np.ascontiguousarray(test[:, ::-1])
    return {what: images for what, images in sets.items() if channels == 3 or what not in COLOUR}


COLOUR = ("own, without colour", "own, red and blue swapped")


def dicom_pictures(package: Package) -> list[np.ndarray]:
    """Return the prepared array of every shared DICOM file that can be decoded at all."""
    anything = package.contract.model_copy(
        update={"accept": Accept(), "region": "whole", "name": "anything"}
    )
    found = []
    for file in sorted((SHARED / "dicom").glob("*.dcm")):
        try:
            pixels = prepare(read(file.read_bytes(), anything), anything).pixels
        except ImageError:
            continue
        found.append(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    return found


def looked(runtime: Runtime, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings and logits."""
    parts = [runtime.run(images[start : start + 32]) for start in range(0, len(images), 32)]
    return np.concatenate([one.embedding for one in parts]), np.concatenate([one.logits for one in parts])  # fmt: skip


Seen = tuple[tuple[np.ndarray, np.ndarray], np.ndarray]


def scores(training: Seen, package: Package) -> dict[str, Callable[[Seen], np.ndarray]]:
    """Return the scores that are compared: name -> higher where an image is stranger."""
    reference = package.reference
    assert reference is not None
    shape, values = reference.shape, training[0][0].astype(np.float64)
    mean, precision = values.mean(axis=0), np.linalg.inv(shrunk(values))

    def apart(seen: Seen) -> np.ndarray:
        return shape.distances(seen[0][0], looks(seen[1])) / reference.usual

    def mahalanobis(seen: Seen) -> np.ndarray:
        away = seen[0][0] - mean
        return np.sqrt(np.einsum("ij,jk,ik->i", away, precision, away))

    return {
        "**ships**: residual or look": lambda seen: apart(seen).max(axis=1),
        "residual of the embedding": lambda seen: apart(seen)[:, 0],
        "look": lambda seen: apart(seen)[:, 1],
        "Mahalanobis, shrunk": mahalanobis,
        "energy of the logits": lambda seen: -np.logaddexp.reduce(seen[0][1], axis=1),
    }


def shrunk(values: np.ndarray) -> np.ndarray:
    """Return the covariance [D, D] of [N, D], shrunk towards a multiple of the identity (Ledoit & Wolf 2004)."""
    away = values - values.mean(axis=0)
    count, width = away.shape
    plain = away.T @ away / count
    target = np.trace(plain) / width * np.eye(width)
    most = ((plain - target) ** 2).sum()
    noise = (np.einsum("ij,ij->i", away, away) ** 2).sum() / count**2 - (plain**2).sum() / count
    share = min(1.0, noise / most)
    return (1 - share) * plain + share * target


def files(package: Package, runtime: Runtime) -> str:
    """Return a sentence on what becomes of every shared DICOM file when it is sent to be scored."""
    outcomes: Counter[str] = Counter()
    for file in sorted((SHARED / "dicom").glob("*.dcm")):
        try:
            score = score_bytes(package, runtime, file.read_bytes())
        except ImageError:
            outcomes["refused"] += 1
            continue
        by_kind = score.scope is not None and score.scope.distance is None
        outcomes[score.verdict + (" by kind" if by_kind else "")] += 1
    listed = ", ".join(f"{what} {count}" for what, count in outcomes.most_common())
    return f"All {sum(outcomes.values())} shared DICOM files sent to be scored: {listed}."


if __name__ == "__main__":
    main()
