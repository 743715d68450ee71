"""The words that documents share: one term for one thing (the glossary stands in docs/architecture.md)."""

from typing import Literal

Laterality = Literal["L", "R", "B", "U"]
"""Side of a paired organ, DICOM (0020,0062): left, right, both, unknown or unpaired."""

Split = Literal["train", "tune", "calibration", "test", "external"]
"""train fits; tune stops and selects; calibration calibrates and sets operating points; test is sealed;
external: sealed, too, and from sites that none of the others has seen."""

SPLITS: tuple[Split, ...] = ("train", "tune", "calibration", "test", "external")

Verdict = Literal["positive", "negative", "indeterminate", "insufficient_quality", "out_of_scope"]
"""The answer about one image."""

FindingState = Literal["present", "uncertain", "absent", "not_assessed"]
"""What a score says about one finding: p >= high, low <= p < high, p < low, or nothing."""

Format = Literal["dicom", "jpeg", "png", "tiff", "jpeg2000", "webp", "array"]
"""Container of an image's bytes, by its first bytes, never by the file's name."""

LabelKind = Literal["binary", "classes", "ordinal"]
"""binary: 0 or 1. classes: 0..K-1, exclusive. ordinal: classes in an order, such as grades."""

Aggregate = Literal["highest", "mean"]
"""How the images of one side of a patient become one probability (``pipeline.model.decision``)."""

RuntimeName = Literal["onnxruntime", "openvino", "cuda"]
"""What runs a package's graph: ONNX Runtime or OpenVINO on the CPU, ONNX Runtime on a CUDA device."""

Precision = Literal["fp32", "bf16", "int8"]
"""In which numbers a graph's convolutions and products are worked out."""

RuntimeWish = Literal["auto", "onnxruntime", "openvino", "cuda"]
"""auto: by the rule of pipeline/model/opening.py."""

PrecisionWish = Literal["auto", "fast", "fp32", "bf16", "int8"]
"""auto: fp32. fast: the fastest that the package's own evidence allows."""
