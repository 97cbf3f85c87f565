"""`losskit info`: the versions, and which implementations of the losses run here."""

import argparse

from losskit.backends import info

__all__ = ["add_command"]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "info",
        help="versions, backends and threads on this machine",
        description="Prints the versions in use and which backends can run the losses here, with the reason where "
        "one cannot. Put it into a bug report.",
        epilog="example: LOSSKIT_ISA=baseline losskit info",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    rows = info()
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0
