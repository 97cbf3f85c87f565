"""Tensors from a command line: what is read, and that nothing is executed."""

import os
import pickle
from pathlib import Path

import numpy
import pytest
import torch

from losskit.cli.tensors import read_tensor
from losskit.errors import DataError, LosskitError, LosskitValueError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[0.1, 0.2, 0.3]]", torch.tensor([[0.1, 0.2, 0.3]])),
        ("[1, 0, -100]", torch.tensor([1, 0, -100])),
        ("[1, 0.5]", torch.tensor([1.0, 0.5])),
        (" 2.5 ", torch.tensor(2.5)),
        ("[true, false]", torch.tensor([True, False])),
        ("[]", torch.tensor([])),
        ("[1e3, Infinity]", torch.tensor([1000.0, float("inf")])),
    ],
)
def test_json(text: str, expected: torch.Tensor) -> None:
    found = read_tensor("--input", text)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_files(tmp_path: Path) -> None:
    matrix = torch.tensor([[1.5, 2.0], [-3.0, 4.0]])
    (tmp_path / "a.csv").write_text("1.5,2\n-3,4\n\n")
    numpy.save(tmp_path / "a.npy", matrix.numpy())
    torch.save(matrix, tmp_path / "a.pt")
    for suffix in (".csv", ".npy", ".pt"):
        found = read_tensor("--input", str(tmp_path / f"a{suffix}"))
        assert found.dtype == torch.float32
        assert torch.equal(found, matrix)
    # What is saved keeps its dtype; a column of whole numbers is a list of class indices.
    torch.save(matrix.double().requires_grad_(), tmp_path / "b.PT")
    found = read_tensor("--input", str(tmp_path / "b.PT"))
    assert (found.dtype, found.requires_grad) == (torch.float64, False)
    (tmp_path / "labels.csv").write_text("0\n2\n1\n")
    assert torch.equal(read_tensor("--target", str(tmp_path / "labels.csv")), torch.tensor([0, 2, 1]))


class Harmful:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_nothing_is_executed(suffix: str, tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / f"file{suffix}"
    content = numpy.array([Harmful(trap)], dtype=object)
    if suffix == ".npy":
        numpy.save(path, content, allow_pickle=True)
    else:
        torch.save(Harmful(trap), path)
    with pytest.raises(DataError, match=r"^--input: .*file\.(npy|pt) "):
        read_tensor("--input", str(path))
    path.write_bytes(pickle.dumps(Harmful(trap)))
    with pytest.raises(DataError):
        read_tensor("--input", str(path))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[1, 2",
            "--input '[1, 2' is neither JSON (Expecting ',' delimiter, place 6) nor a .npy, .pt or .csv file: "
            "numbers are written '[[0.1, 0.2], [0.3, 0.4]]'.",
        ),
        (
            "__import__('os').system('true')",
            "--input \"__import__('os').system('true')\" is neither JSON (Expecting value, place 1) nor a .npy, "
            ".pt or .csv file: numbers are written '[[0.1, 0.2], [0.3, 0.4]]'.",
        ),
        ('["a"]', "--input: '[\"a\"]' is no tensor: expected a number, or lists of numbers of the same length."),
        ('{"a": 1}', "--input must be a number or a list of numbers, got '{\"a\": 1}'."),
        ("[1, null]", "--input: '[1, null]' is no tensor: expected a number, or lists of numbers of the same length."),
        (
            "[9999999999999999999]",
            "--input: '[9999999999999999999]' is no tensor: expected a number, or lists of numbers of the same length.",
        ),
        ("[" * 100_000, f"--input: '{'[' * 37}...' has lists within too many lists."),
    ],
)
def test_wrong_json(text: str, message: str) -> None:
    with pytest.raises(LosskitValueError) as caught:
        read_tensor("--input", text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"1,2\n3\n", "a.csv, line 2: 1 numbers, where the lines before have 2."),
        ("a.csv", b"x,y\n1,2\n", "a.csv, line 1: 'x' is no number."),
        ("a.csv", b"\n", "a.csv is empty."),
        ("a.pt", b"nothing", "a.pt is no file of tensors that can be read safely ("),
        ("a.npy", b"nothing", "a.npy is no array of numbers ("),
        ("a.csv", b"\xff\xfe1", "a.csv is no table of numbers ("),
    ],
)
def test_damaged_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_tensor("--target", name)
    assert str(caught.value).startswith(f"--target: {message}")
    assert "\n" not in str(caught.value)


def test_files_of_something_else(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt holds a dict, and a single tensor is needed\.$"):
        read_tensor("--input", str(tmp_path / "a.pt"))
    numpy.save(tmp_path / "a.npy", numpy.array(["a"]))
    with pytest.raises(DataError, match=r"a\.npy holds <U1, and numbers are needed\.$"):
        read_tensor("--input", str(tmp_path / "a.npy"))
    for missing in ("b.pt", "b.npy", "b.csv"):
        with pytest.raises(LosskitError, match=rf"^--input: there is no file {missing}\.$"):
            read_tensor("--input", missing)


def test_without_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    numpy.save(tmp_path / "a.npy", numpy.ones(2))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(LosskitError, match=r"a\.npy needs NumPy: pip install 'losskit\[train\]'\.$"):
        read_tensor("--input", str(tmp_path / "a.npy"))
