"""Put a run's model package into the MLflow registry, its card completed by the evaluation.

    hilum register 3f2a9c... --name fundus --alias champion

The registered package is what `hilum serve` and `hilum score` fetch: models:/fundus@champion.
"""

import argparse
import tempfile
from pathlib import Path

from services.cli.console import Console


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="id of a finished, evaluated MLflow run")
    parser.add_argument("--name", required=True, help="name of the model in the registry")
    parser.add_argument(
        "--alias", default="champion", help="who the new version is (default: champion)"
    )
    parser.add_argument(
        "--without-evaluation",
        action="store_true",
        help="register a model that nobody measured; its card will say so",
    )


def run(options: argparse.Namespace, console: Console) -> int:
    """Register and print the version, the package's digest and what comes next."""
    from pipeline.evaluate.final import final_package
    from pipeline.tracking.finding import finished_run
    from pipeline.tracking.registry import register
    from services.cli.settings import tracking_uri

    uri = tracking_uri()
    finished_run(uri, options.run)
    with tempfile.TemporaryDirectory(prefix="hilum-register-") as scratch:
        package = final_package(
            options.run,
            uri,
            Path(scratch),
            name=options.name,
            without_evaluation=options.without_evaluation,
        )
        version = register(uri, options.run, package.folder, options.name, options.alias)
    address = f"models:/{options.name}@{options.alias}"
    console.result(
        f"{options.name} version {version} is now {options.alias}\n"
        f"package {package.sha256}\n\n"
        f"next: hilum serve {address}",
        {
            "name": options.name,
            "version": version,
            "alias": options.alias,
            "model": address,
            "package_sha256": package.sha256,
            "evaluated": package.card.evaluation is not None,
        },
    )
    return 0
