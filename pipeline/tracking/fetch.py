"""The child process behind ``registry.fetch_package`` for database stores: loads MLflow, fetches, ends.

``python -m pipeline.tracking.fetch models:/NAME@alias sqlite:////path/mlflow.db FOLDER`` prints
one JSON object: on stdout the package's place, or on stderr the error.
"""

import json
import sys
from pathlib import Path

from data_schemas.errors import HilumError
from pipeline.tracking import registry


def main(words: list[str]) -> int:
    """Fetch and print; return the exit code."""
    model_uri, tracking_uri, folder = words
    try:
        package = registry.fetch_with_client(model_uri, tracking_uri, Path(folder))
    except HilumError as error:
        told = {"what": error.what, "where": error.where, "mend": error.mend}
        sys.stderr.write(json.dumps(told) + "\n")
        return 1
    sys.stdout.write(registry.as_json(package) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
