"""The command ``hilum``: finds the command's module, runs it, turns errors into exit codes.

``hilum --help`` imports no command; a command imports its rooms inside :func:`run`.
"""

import argparse
import importlib
import sys

from data_schemas.errors import OUTCOMES, HilumError
from data_schemas.version import our_version
from services.cli.console import Console

COMMANDS: dict[str, str] = {
    "ingest": "turn a folder of images and a label table into a data set",
    "deidentify": "write clean copies of DICOM images and photographs for research",
    "leaks": "examine a data set for leaks between its splits and for shortcuts",
    "plan": "measure a data set and write the plan of its training",
    "train": "train a network on a data set, tracked in MLflow",
    "search": "try other settings around a plan, on the tuning split",
    "send": "send what runs logged while their MLflow store was away",
    "evaluate": "measure a run on the test split and log the figures to it",
    "look": "show what a network does with one image, from its pixels to the verdict",
    "register": "put a run's model package into the MLflow registry",
    "quantize": "add an 8-bit graph to a model package and measure its precisions",
    "verify": "check a model package here, in every runtime and precision",
    "sign": "sign a model package, for services that serve only signed ones",
    "serve": "score images over HTTP",
    "keys": "make, list and revoke the API keys of a service",
    "score": "score files in batch",
    "verify-receipts": "find any change in the log of what was scored",
    "replay": "score a file again and compare with the receipt of its score",
    "report": "write a draft report from a score",
    "train-report": "train the report writer, tracked in MLflow",
    "demo": "walk the whole road on a drawn cohort of fundus photographs",
}
"""Command -> what it does, in the order of the road. Module: services.cli.commands.NAME."""


def main(words: list[str] | None = None) -> int:
    """Run ``hilum`` with ``words`` (default: the process's arguments); return the exit code."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"hilum {our_version()}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        print(f"error: `{name}` is not a command\n\n{_overview()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"services.cli.commands.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"hilum {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(words[1:])
    console = Console(as_json=options.json)
    try:
        return int(module.run(options, console))
    except HilumError as error:
        if options.debug:
            raise
        console.error(error)
        return next(OUTCOMES[kind].exit_code for kind in type(error).__mro__ if kind in OUTCOMES)
    except KeyboardInterrupt:
        console.say("interrupted")
        return 130


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hilum COMMAND ...",
            "",
            "Medical-image classification, from the archive to a signed-off answer.",
            "",
            "commands, in the order of the road:",
            *lines,
            "",
            "`hilum COMMAND --help` explains one; `hilum --version` prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
