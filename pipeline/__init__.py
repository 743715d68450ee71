"""The rooms between a hospital's files and a signed-off answer; see docs/architecture.md."""

import os

# ONNX Runtime 1.29 and later reports the model's file name, the graph's digest and this machine to its maker as
# soon as it is imported, unless told before; here, because this runs before any room's imports
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251 - it has no other switch
