# ruff: noqa: INP001 - a script, no package
"""Print what pyproject.toml requires, one line each: the base, and the extras named.

python deploy/requirements.py pyproject.toml train report
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
lines = [*project["dependencies"]]
for extra in sys.argv[2:]:
    lines += project["optional-dependencies"][extra]
print("\n".join(lines))  # noqa: T201
