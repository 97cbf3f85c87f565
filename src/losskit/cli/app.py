"""`losskit COMMAND …`: reads the command line, runs the command, turns errors into one sentence and an exit status.

Exit status 0 is success; 1 a difference that `train --compare-torch` or `bench` found, or an error that `doctor` did,
whose status is otherwise that of its script; 2 a wrong option, missing data, a loss that is not there or an output that
cannot be written, with one sentence on stderr; 130 a stop by Ctrl-C; 141 a pipe whose reader has gone.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import torch

import losskit
from losskit.cli import bench, doctor, explain, info, losses, plot, train
from losskit.cli.parser import Parser
from losskit.errors import LosskitError

__all__ = ["main"]

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the program's own; returns the exit status."""
    parser = _parser()
    _complete(parser)
    arguments = parser.parse_args(argv)
    run: Command = arguments.run
    try:
        status = run(arguments)
        # Here and not at the exit of Python, where an error could no longer be caught.
        sys.stdout.flush()
        return status
    except LosskitError as error:
        print(f"losskit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("losskit: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, `head` say, has seen enough. What is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, if it is the shell that asks, what the word at the cursor may become."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="losskit",
        description="The loss functions of torch.nn, fused, checked and explained. This command explains and draws "
        "them, finds faults in the losses of a script, trains a network with them, measures them, and tells which of "
        "them serves a task and what runs here.",
        epilog="losskit COMMAND --help tells the options of a command.",
    )
    parser.add_argument(
        "--version", action="version", version=f"losskit {losskit.__version__} (torch {torch.__version__})"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (explain, doctor, plot, losses, train, bench, info):
        command.add_command(commands)
    return parser
