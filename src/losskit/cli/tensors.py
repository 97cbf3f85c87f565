"""Tensors from a command line: numbers written out as JSON, or a file of numbers. Nothing that is read is executed."""

import csv
import json
import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

from losskit.errors import DataError, LosskitValueError, MissingDependencyError

__all__ = ["SUFFIXES", "read_tensor"]

SUFFIXES = (".csv", ".npy", ".pt")


def read_tensor(text: str, option: str) -> Tensor:
    """The tensor that `text` is: JSON numbers such as `[[0.1, 0.2]]`, or the path of a .csv, .npy or .pt file.

    Numbers without a point or exponent give int64, others float32; files keep the dtype they have.

    **Raises**: `LosskitValueError` or `DataError` in the name of `option`.

    **Example**:

    >>> read_tensor("[[1, 2], [3, 4]]", "--input")
    tensor([[1, 2],
            [3, 4]])
    """
    path = Path(text)
    if path.suffix.casefold() not in SUFFIXES:
        return _from_json(text, option)
    try:
        if path.suffix.casefold() == ".csv":
            return _from_csv(path, option)
        return _from_npy(path, option) if path.suffix.casefold() == ".npy" else _from_pt(path, option)
    except OSError as error:
        raise DataError(f"{option}: {path} cannot be read ({error.strerror or error}).") from error


def _from_json(text: str, option: str) -> Tensor:
    try:
        return _tensor(json.loads(text))
    except json.JSONDecodeError as error:
        raise LosskitValueError(
            f"{option}: {_short(text)} is neither JSON ({error.msg} at character {error.pos + 1}) nor the path of a "
            f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file; write numbers such as '[[0.1, 0.2, 0.3]]'."
        ) from error
    except (TypeError, ValueError, OverflowError, RuntimeError, RecursionError) as error:
        raise LosskitValueError(
            f"{option}: {_short(text)} is no tensor: expected a number, or lists of numbers of the same length."
        ) from error


def _tensor(value: object) -> Tensor:
    tensor = torch.tensor(value)
    return tensor.float() if tensor.is_floating_point() else tensor


def _from_csv(path: Path, option: str) -> Tensor:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{option}: {path} is no CSV file ({error}).") from error
    numbers: list[list[int | float]] = []
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise DataError(
                f"{option}: row {number} of {path} has {len(row)} cells where the first has {len(rows[0])}; give every "
                "row as many."
            )
        try:
            numbers.append([_number(cell) for cell in row])
        except ValueError as error:
            raise DataError(f"{option}: row {number} of {path} holds what is no number ({error}).") from error
    if not numbers:
        raise DataError(f"{option}: {path} holds no numbers.")
    tensor = _tensor(numbers)
    # A column of numbers is a list of them.
    return tensor.squeeze(1) if tensor.shape[1] == 1 else tensor


def _number(cell: str) -> int | float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def _from_npy(path: Path, option: str) -> Tensor:
    try:
        import numpy
    except ImportError as error:
        raise MissingDependencyError(
            f"{option}: {path} needs NumPy, which is not installed: pip install 'losskit[train]'."
        ) from error
    try:
        return torch.from_numpy(numpy.load(path, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise DataError(f"{option}: {path} holds no array of numbers ({_first_line(error)}).") from error


def _from_pt(path: Path, option: str) -> Tensor:
    try:
        with warnings.catch_warnings():
            # Of a pickle that torch.save did not write: the error below says as much.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load has no exception of its own: each damage surfaces as another of these.
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{option}: {path} cannot be read as a saved tensor ({_first_line(error)}).") from error
    if not isinstance(content, Tensor):
        raise DataError(f"{option}: {path} holds a {type(content).__name__}; save one tensor with torch.save.")
    return content.detach()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
