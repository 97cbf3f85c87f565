"""The command `losskit`."""

from losskit.cli.app import main

__all__ = ["main"]
