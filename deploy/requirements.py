# ruff: noqa: INP001 - a script, no package
"""Print what pyproject.toml requires, one line each: the base, and the extras named.

python deploy/requirements.py pyproject.toml train report
python deploy/requirements.py pyproject.toml --only tracking     (the extra without the base)
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = [word for word in sys.argv[2:] if word != "--only"]
lines = [] if "--only" in sys.argv else [*project["dependencies"]]
for extra in extras:
    lines += project["optional-dependencies"][extra]
print("\n".join(lines))  # noqa: T201
