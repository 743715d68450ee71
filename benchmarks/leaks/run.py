"""Near-duplicates: how far apart are copies and other patients, plainly and by what is a picture's own?

    python benchmarks/leaks/run.py
    python benchmarks/leaks/run.py --picture docs/images/near-copies.png

Reads ../shared/data. One thread. For each data set: the highest correlation of two pictures of
different splits that are no copies (plain and own), how many of 100 pictures are found again after
they were altered, and the time of a whole examination.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from timing import table  # noqa: E402

from data_schemas import settings  # noqa: E402
from data_schemas.contract import Contract  # noqa: E402
from data_schemas.progress import silent  # noqa: E402
from pipeline.ingest.ingest import Options, ingest  # noqa: E402
from pipeline.ingest.leaks import neighbours  # noqa: E402
from pipeline.ingest.leaks.examine import examine  # noqa: E402
from pipeline.ingest.store import Dataset, open_dataset  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
SETS = ("fundus_rahim", "retinamnist", "pneumoniamnist", "breastmnist")
ALTERED = 100


def taken_in(name: str, out: Path) -> Dataset:
    """Ingest a set with its own contract."""
    source, labels, kind = SHARED / "medmnist" / f"{name}.npz", None, "medmnist"
    if name == "fundus_rahim":
        source, kind = SHARED / name, "fundus"
        labels = source / "labels.csv"
    contract = settings.resolve(
        Contract, [settings.from_file(ROOT / f"configs/contracts/{kind}.yaml")]
    )
    wanted = ("aded",) if labels else ()
    options = Options(labels=wanted, examine=False)
    ingest(source, labels, out / name, contract, key=b"k" * 16, progress=silent, options=options)
    return open_dataset(out / name)


def jpeg(image: Image.Image) -> Image.Image:
    """Save once more, at quality 50."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


def cropped(image: Image.Image) -> Image.Image:
    """Cut 2 % off each side."""
    width, height = image.size
    cut = (round(width * 0.02), round(height * 0.02))
    box = (*cut, width - cut[0], height - cut[1])
    return image.crop(box).resize(image.size, Image.Resampling.BICUBIC)


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.75),
    "gamma 0.8": lambda image: image.point([round(255 * (v / 255) ** 0.8) for v in range(256)] * 3),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width * 0.01)),
    "turned 1°": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
    "JPEG 50": jpeg,
    "cropped 2 %": cropped,
}


def owns(dataset: Dataset) -> tuple[neighbours.Patterns, NDArray, NDArray]:
    """Return the patterns in common, and every picture plainly and by its own, unit length."""
    read, count = dataset.copies, dataset.info.images
    patterns = neighbours.learn_patterns(read, count)
    small = np.concatenate([neighbours.small_grey(read(np.array([k]))) for k in range(count)])
    return patterns, neighbours.standard(small), patterns.own(small)


def measured(dataset: Dataset) -> list[str]:
    """Return one row of the table."""
    patterns, plain, own = owns(dataset)
    split = np.array(dataset.manifest["split"].to_pylist())
    alike = np.triu(own @ own.T, 1)
    alike[split[:, None] == split[None, :]] = 0
    others = np.where(alike < neighbours.NEAR, alike, 0)
    plainly = np.triu(plain @ plain.T, 1)[(alike != 0) & (alike < neighbours.NEAR)]
    chosen = np.random.default_rng(1).choice(len(own), ALTERED, replace=False)
    found = []
    for change in ALTERATIONS.values():
        pictures = dataset.pixels(chosen)
        changed = np.stack(
            [np.asarray(change(Image.fromarray(p)).convert("RGB")) for p in pictures]
        )
        again = patterns.own(neighbours.small_grey(changed))
        found.append(int(((again * own[chosen]).sum(1) >= neighbours.NEAR).sum()))
    clock, cpu = time.perf_counter(), time.process_time()
    examine(dataset, silent)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return [
        f"{dataset.info.name} ({len(own)})",
        f"{plainly.max():.3f}",
        f"{others.max():.3f}",
        str(int((alike >= neighbours.NEAR).sum())),
        *map(str, found),
        f"{clock:.1f} / {cpu:.1f}",
    ]


def picture(breast: Dataset, retina: Dataset, path: Path) -> None:
    """Draw a copy and a look-alike: both plainly alike, only the copy by what is its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    for row, (dataset, title) in enumerate(
        ((breast, "a near-copy: one patient, two splits"), (retina, "two patients"))
    ):
        _, plain, own = owns(dataset)
        split = np.array(dataset.manifest["split"].to_pylist())
        across = np.triu(np.ones((len(own), len(own)), bool), 1) & (
            split[:, None] != split[None, :]
        )
        alike, plainly = own @ own.T, plain @ plain.T
        wanted = (alike > 0.97) & (alike < 0.98) if row == 0 else alike < 0.7
        scores = np.where(across & wanted & (plainly < 0.9999), plainly, -1)
        pair = np.array(np.unravel_index(scores.argmax(), scores.shape))
        pixels = dataset.pixels(pair)
        shape = neighbours.small_grey(pixels[:1])[0].shape
        for column in range(2):
            axes[row, column].imshow(pixels[column])
            name = f"{split[pair[column]]} {dataset.manifest['source_sha256'][int(pair[column])].as_py()[:12]}"
            axes[row, column].set_title(name, fontsize=8)
            axes[row, 2 + column].imshow(own[pair[column]].reshape(shape), cmap="gray")
            axes[row, 2 + column].set_title("its own", fontsize=8)
        axes[row, 0].set_ylabel(f"{title}\n({dataset.info.name})", fontsize=8)
        first, second = pair
        axes[row, 1].set_xlabel(f"plain correlation {plainly[first, second]:.3f}", fontsize=9)
        axes[row, 3].set_xlabel(f"of their own {alike[first, second]:.3f}", fontsize=9)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.picture:
            breast, retina = (
                taken_in(name, Path(scratch)) for name in ("breastmnist", "retinamnist")
            )
            picture(breast, retina, options.picture)
            return
        head = [
            "data set (images)",
            "others, plain",
            "others, own",
            "pairs",
            *ALTERATIONS,
            "s / CPU s",
        ]
        print(table(head, [measured(taken_in(name, Path(scratch))) for name in SETS]))


if __name__ == "__main__":
    main()
