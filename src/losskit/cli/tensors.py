"""Tensors on a command line: JSON, or a file of numbers. Nothing that is read is ever run."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losskit.errors import DataError, LosskitValueError, MissingDependencyError

__all__ = ["SUFFIXES", "read_tensor", "read_value"]

SUFFIXES = (".npy", ".pt", ".csv")


def read_value(option: str, text: str) -> Any:
    """What an option's text says: the tensor of a file, or the number, list or bool of a JSON literal."""
    if Path(text).suffix.casefold() in SUFFIXES:
        return _read(option, Path(text))
    try:
        value = json.loads(text)
    except RecursionError:
        raise LosskitValueError(f"{option}: {_short(text)} has lists within too many lists.") from None
    except json.JSONDecodeError as error:
        raise LosskitValueError(
            f"{option} {_short(text)} is neither JSON ({error.msg}, place {error.pos + 1}) nor a {_or(SUFFIXES)} "
            "file: numbers are written '[[0.1, 0.2], [0.3, 0.4]]'."
        ) from None
    if isinstance(value, (str, dict)) or value is None:
        raise LosskitValueError(f"{option} must be a number or a list of numbers, got {_short(text)}.")
    return value


def read_tensor(option: str, text: str) -> Tensor:
    """The same as a tensor: whole numbers as int64, others as float32, files in the dtype they have.

    **Example**:

    >>> read_tensor("--input", "[[1, 2], [3, 4]]")
    tensor([[1, 2],
            [3, 4]])
    """
    value = read_value(option, text)
    if isinstance(value, Tensor):
        return value.detach()
    try:
        tensor = torch.tensor(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise LosskitValueError(
            f"{option}: {_short(text)} is no tensor: expected a number, or lists of numbers of the same length."
        ) from None
    return tensor.float() if tensor.is_floating_point() else tensor


def _read(option: str, path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{option}: there is no file {path}.")
    try:
        return {".npy": _array, ".pt": _tensor, ".csv": _table}[path.suffix.casefold()](option, path)
    except OSError as error:
        raise DataError(f"{option}: cannot read {path} ({error.strerror or error}).") from None


def _array(option: str, path: Path) -> Tensor:
    # NumPy is an extra, and needed for its own format alone.
    try:
        import numpy as np
    except ImportError:
        raise MissingDependencyError(f"{option}: {path} needs NumPy: pip install 'losskit[train]'.") from None
    try:
        with path.open("rb") as file:
            # Pickled objects could run anything.
            array = np.load(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy has no type of its own for a file that is none of its.
        raise DataError(f"{option}: {path} is no array of numbers ({_line(error)}).") from None
    if not (isinstance(array, np.ndarray) and array.dtype.kind in "biufc"):
        kind = str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{option}: {path} holds {kind}, and numbers are needed.")
    native = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native)
    except TypeError:
        raise DataError(f"{option}: {path} holds {array.dtype}, which is no dtype of torch.") from None


def _tensor(option: str, path: Path) -> Tensor:
    try:
        with warnings.catch_warnings():
            # Of formats that it may not read; it will say so.
            warnings.simplefilter("ignore")
            # Tensors and plain containers, and nothing that runs.
            value = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # What is no file of tensors raises whatever its bytes lead to.
        raise DataError(
            f"{option}: {path} is no file of tensors that can be read safely ({_line(error)}): "
            "torch.save(tensor, path) makes one."
        ) from None
    if not isinstance(value, Tensor):
        raise DataError(f"{option}: {path} holds a {type(value).__name__}, and a single tensor is needed.")
    return value


def _table(option: str, path: Path) -> list[Any]:
    """Rows of numbers; a single column is a list."""
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, cells in enumerate(csv.reader(file), 1):
                if cells:
                    rows.append([_number(option, path, line, cell.strip()) for cell in cells])
                    if len(cells) != len(rows[0]):
                        raise DataError(
                            f"{option}: {path}, line {line}: {len(cells)} numbers, where the lines before "
                            f"have {len(rows[0])}."
                        )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{option}: {path} is no table of numbers ({_line(error)}).") from None
    if not rows:
        raise DataError(f"{option}: {path} is empty.")
    return [row[0] for row in rows] if len(rows[0]) == 1 else rows


def _number(option: str, path: Path, line: int, cell: str) -> float:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    raise DataError(f"{option}: {path}, line {line}: {cell!r} is no number.")


def _line(error: Exception) -> str:
    """The first sentence of another library's message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
