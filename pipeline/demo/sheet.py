"""Contact sheet of a drawn cohort: one row for each grade, and one of ungradable photographs."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_schemas.contract import Contract
from pipeline.demo.cohort import read_truth
from pipeline.imaging.picture import picture
from pipeline.imaging.read import read

CELL = (372, 256)
COLUMNS = 5
ROWS = ("grade 0", "grade 1", "grade 2", "grade 3", "grade 4", "ungradable")


def contact_sheet(cohort: Path, target: Path) -> None:
    """Write a PNG with up to five photographs of every grade, as a reader sees them."""
    groups: dict[str, list[str]] = {name: [] for name in ROWS}
    # by fault, so that the last row shows each kind
    for row in sorted(read_truth(cohort).values(), key=lambda one: one["fault"]):
        name = f"grade {row['dr_grade']}" if row["fault"] == "none" else "ungradable"
        groups[name].append(row["image"])
    sheet = Image.new("RGB", (COLUMNS * CELL[0], len(ROWS) * CELL[1]))
    pen = ImageDraw.Draw(sheet)
    contract = Contract(name="any")
    for line, (name, images) in enumerate(groups.items()):
        # spread over the cohort: neighbours in the list are the two eyes of one patient
        chosen = np.linspace(0, max(len(images) - 1, 0), min(COLUMNS, len(images))).astype(int)
        for column, index in enumerate(dict.fromkeys(chosen.tolist())):
            instance = read((cohort / "archive" / images[index]).read_bytes(), contract)
            view = Image.fromarray(picture(instance))
            view.thumbnail(CELL, Image.Resampling.LANCZOS)
            sheet.paste(view, (column * CELL[0], line * CELL[1]))
        pen.text((8, line * CELL[1] + 6), name, fill=(200, 200, 200))
    sheet.save(target, optimize=False)
