"""What a careful author of a small server writes for pixels: Pillow or pydicom, padded, resized to 224."""

import io

import numpy as np
from PIL import Image, ImageOps


def pixels_of(data: bytes) -> np.ndarray:
    """Return uint8 [224, 224, 3] of a JPEG, PNG or uncompressed DICOM file."""
    if data[128:132] == b"DICM":
        import pydicom

        values = pydicom.dcmread(io.BytesIO(data)).pixel_array.astype(np.float32)
        low, high = values.min(), values.max()
        image = Image.fromarray(((values - low) * (255 / (high - low))).astype(np.uint8))
    else:
        image = Image.open(io.BytesIO(data))
    return np.asarray(ImageOps.pad(image.convert("RGB"), (224, 224), Image.Resampling.BILINEAR))


def network_of(package: str):
    """Return the package's network in torch, eager, fp32: uint8 [N, 224, 224, 3] -> logits first."""
    import json
    from pathlib import Path

    from safetensors.torch import load_file

    from data_schemas.plan import NetworkPlan
    from pipeline.train.networks import build

    folder = Path(package)
    backbone = json.loads((folder / "card.json").read_text())["backbone"]
    network = build(NetworkPlan(backbone=backbone), 1, 224)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval()
