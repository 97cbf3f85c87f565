"""Pictures against stored ones, which `python -m tests.plot.test_references` draws anew: look at them then."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pytest
import torch
from matplotlib.image import imread

import losskit
from losskit import plot

if __name__ == "__main__":
    from tests.plot.pictures import PICTURES, figure_of
else:
    from plot.pictures import PICTURES, figure_of

REFERENCE = Path(__file__).parent / "reference"
DPI = 40
# Root mean square over all pixels and channels, of 0 to 255. The same version of matplotlib, which brings its own
# fonts, draws the same pixels; rounding in the last place of a loss moves the grey of an outline by a level or two. A
# loss that is ten percent off, or another, moved it by 5 or more in the tests below.
TOLERANCE = 1.0


def stored(name: str) -> Path:
    return REFERENCE / f"{name}.png"


def difference(path: Path, reference: Path) -> float:
    found, expected = (numpy.asarray(imread(one), dtype=float)[..., :3] for one in (path, reference))
    if found.shape != expected.shape:
        return float("inf")
    return float(255 * numpy.sqrt(numpy.mean((found - expected) ** 2)))


def draw(picture: Any, path: Path) -> Path:
    return plot.save(figure_of(picture), path, dpi=DPI)


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_the_stored_one(name: str, tmp_path: Path) -> None:
    path = draw(PICTURES[name](), tmp_path / f"{name}.png")
    assert difference(path, stored(name)) <= TOLERANCE
    assert stored(name).stat().st_size < 40_000


def test_no_picture_is_left_over() -> None:
    assert sorted(path.stem for path in REFERENCE.iterdir()) == sorted(PICTURES)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("curve", lambda: plot.curve("mse", "l1", losskit.HuberLoss(delta=1.5), "smooth_l1")),
        ("compare", lambda: plot.compare("bce_with_logits", "multi_margin", "cross_entropy", of="gradient")),
        ("line", lambda: plot.landscape("huber", torch.arange(4.0), 2 * torch.arange(4.0) - 1)),
    ],
)
def test_another_loss_is_another_picture(name: str, wrong: Any, tmp_path: Path) -> None:
    assert difference(draw(wrong(), tmp_path / "wrong.png"), stored(name)) > 3 * TOLERANCE


def test_a_wrong_loss_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words and all as they were, and the slope of the loss ten percent off."""
    right = losskit.functional.cross_entropy

    @functools.wraps(right)
    def wrong(*arguments: Any, **kwargs: Any) -> torch.Tensor:
        return 1.1 * right(*arguments, **kwargs)

    monkeypatch.setattr(losskit.functional, "cross_entropy", wrong)
    for name in ("samples", "landscape", "softmax-twice"):
        assert difference(draw(PICTURES[name](), tmp_path / "wrong.png"), stored(name)) > 3 * TOLERANCE


if __name__ == "__main__":
    matplotlib.use("Agg")
    for each in PICTURES:
        print(draw(PICTURES[each](), stored(each)))
