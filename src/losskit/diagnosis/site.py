"""Where in somebody's code a loss is called."""

import os
import sys
from pathlib import Path
from types import CodeType

import torch

__all__ = ["shown", "user_line"]

_INSIDE = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
# By the id of a code object: it, which keeps its id, and its file; None for one that belongs to torch or losskit.
_files: dict[int, tuple[CodeType, str | None]] = {}


def user_line() -> tuple[str, int] | tuple[None, None]:
    """File and line of the first frame outside torch and losskit."""
    frame = sys._getframe(1)
    while frame is not None:
        known = _files.get(id(frame.f_code)) or _learn(frame.f_code)
        if known[1] is not None:
            return known[1], frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return None, None


def _learn(code: CodeType) -> tuple[CodeType, str | None]:
    name = code.co_filename
    found = (code, None if name.startswith(_INSIDE) else shown(name))
    _files[id(code)] = found
    return found


def shown(file: str) -> str:
    """The path as a person in the current folder would write it."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
