"""Files: the same bytes each time, whole or not at all."""

import os
from pathlib import Path

import pytest

import losskit
from losskit import plot
from losskit.errors import OutputError

HEADS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", HEADS)
def test_the_same_picture_is_the_same_file(suffix: str, tmp_path: Path) -> None:
    first, second = (
        plot.save(plot.curve("mse", "huber", span=(-2, 2)), tmp_path / f"{name}{suffix}") for name in ("a", "b")
    )
    content = first.read_bytes()
    assert content.startswith(HEADS[suffix])
    assert content == second.read_bytes()
    assert len(content) > 1000
    assert sorted(os.listdir(tmp_path)) == [f"a{suffix}", f"b{suffix}"]


def test_figures_and_axes_and_capital_letters(tmp_path: Path) -> None:
    axes = plot.compare("mse")
    for picture in (axes, axes.figure, (axes, axes)):
        assert plot.save(picture, str(tmp_path / "picture.PNG")).read_bytes().startswith(HEADS[".png"])


@pytest.mark.parametrize(("name", "got"), [("picture.jpg", ".jpg"), ("picture", "no suffix")])
def test_another_suffix(name: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(losskit.LosskitError) as caught:
        plot.save(plot.compare("mse"), path)
    assert str(caught.value) == f"save: {path} must end in .png, .svg or .pdf, which says the format, got {got}."
    assert not path.exists()


def test_what_is_there_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        plot.save(plot.compare("mse"), path)
    assert str(caught.value) == f"save: {path} cannot be written (No space left on device)."
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["picture.png"]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(losskit.errors.MissingDependencyError) as caught:
        plot.curve("mse")
    assert str(caught.value) == ("plot: pictures need matplotlib, which is not installed: pip install 'losskit[plot]'.")
