"""Drawn image files of every kind that ends differently."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, kind: str = "PNG") -> bytes:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8).repeat(20, 0).repeat(20, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def draw_folder(folder: Path, count: int) -> None:
    """Draw ``count`` files: photographs, letters, halves of photographs, the same one again."""
    for k in range(count):
        data = picture(k, "JPEG" if k % 3 else "PNG")
        if k % 10 == 4:
            data = f"a letter to colleague {k}".encode()
        elif k % 10 == 7:
            data = data[:150]
        elif k % 10 == 9:
            data = picture(k - 9)
        path = folder / f"{k % 4}" / f"{k:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
