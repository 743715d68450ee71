"""Makes torchvision importable beside a torch that its compiled part wasn't built for.

PyPI's torchvision wheel holds a CUDA extension. With a CPU build of torch that extension can't be
loaded, and ``import torchvision`` stops at the first operator it wants to describe. Networks and
transforms need none of those operators; it is enough that two of them are *declared*.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMA = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_DECLARED = ("nms", "qnms")


def declare_operators() -> torch.library.Library | None:
    """Declare torchvision's operators if its extension doesn't load; ``None`` if it does.

    Call it before the first import of torchvision or timm. The answer must be kept: the
    declarations live as long as the object.
    """
    found = importlib.util.find_spec("torchvision")  # looks for it, doesn't import it
    if found is None or found.origin is None:
        return None
    try:
        torch.ops.load_library(str(Path(found.origin).with_name("_C.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in _DECLARED:
            library.define(_SCHEMA.format(name=name))
        return library
    return None


LIBRARY = declare_operators()
"""Importing this module is enough; the name keeps the declarations alive."""
