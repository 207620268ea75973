"""Images to betons: `python -m data_prep convert | verify | inspect | synth`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from typing import Final

from trainer.errors import RunError, run_command

COMMANDS: Final = {
    "convert": ("convert", "images (folders, ILSVRC2012's tars, CIFAR-10) to a beton and its manifest"),
    "verify": ("verify", "check a beton against its manifest, and that every image decodes"),
    "inspect": ("inspect", "what is in a beton: a table and a contact sheet"),
    "synth": ("synthetic", "generate a data set that can be learnt in minutes"),
}
"""Name: (module of `data_prep`, which has add_arguments(parser) and run(args) -> exit status; what it does)."""


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Make and check data sets for training.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary)
        # Only the command that is asked for is imported: the others' libraries would delay its start.
        if arguments[:1] == [name]:
            module = importlib.import_module(f"data_prep.{module_name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    status: int = args.run(args)
    return status


def _terminated(number: int, frame: object) -> None:
    """So that a command which a scheduler ends still removes what it has half written."""
    raise RunError(f"terminated by {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(run_command(main))
