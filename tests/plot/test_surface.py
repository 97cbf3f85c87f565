"""The map holds the values of the loss, and marks the lowest."""

import re
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

import losskit
from losskit import functional as F
from losskit import plot

X = torch.tensor([0.0, 1.0, 2.0, 3.0])
Y = torch.tensor([-1.0, 1.0, 3.0, 5.0])


def grid(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Any]) -> tuple[Any, list[numpy.ndarray[Any, Any]]]:
    """What is handed to contourf: both axes and the values."""
    from matplotlib.axes import Axes

    seen: list[numpy.ndarray[Any, Any]] = []
    contourf = Axes.contourf

    def recording(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        seen.extend(arguments)
        return contourf(self, *arguments, **kwargs)

    monkeypatch.setattr(Axes, "contourf", recording)
    return draw(), seen


def star(axes: Any) -> tuple[float, float]:
    (marked,) = [line for line in axes.lines if line.get_marker() == "*"]
    return float(marked.get_xdata()[0]), float(marked.get_ydata()[0])


def test_two_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, (xs, ys, values) = grid(
        monkeypatch, lambda: plot.landscape("cross_entropy", span=((-1, 3), (-2, 2)), points=5)
    )
    assert (xs.tolist(), ys.tolist()) == ([-1, 0, 1, 2, 3], [-2, -1, 0, 1, 2])
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            expected = F.cross_entropy(torch.tensor([[float(x), float(y)]]), torch.tensor([0]))
            assert values[row, column] == pytest.approx(float(expected), rel=1e-6)
    assert star(axes) == (3, -2)
    assert axes.get_xlabel() == "x₀: logit of the true class"


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("mse", (0, 0)),
        ("huber", (0, 0)),
        ("bce_with_logits", (4, -4)),
        ("soft_margin", (4, -4)),
        ("poisson", (1, 0)),
    ],
)
def test_where_other_losses_are_lowest(name: str, lowest: tuple[float, float]) -> None:
    assert star(plot.landscape(name, points=9)) == lowest


def test_a_plateau_has_no_lowest_point() -> None:
    axes = plot.landscape("multi_margin", points=5)
    assert [line.get_marker() for line in axes.lines] == []
    # Of the 25 points, those where the true class leads by 1 or more.
    assert axes.get_title() == "multi_margin_loss: lowest at 10 points of the grid"


def test_slope_and_intercept_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, (xs, ys, values) = grid(monkeypatch, lambda: plot.landscape(losskit.L1Loss(), X, Y, points=9))
    assert star(axes) == (2, -1)
    assert axes.get_title() == "L1Loss: lowest at w = 2, b = −1"
    row, column = ys.tolist().index(3), xs.tolist().index(-2)
    assert values[row, column] == pytest.approx(float((-2 * X + 3 - Y).abs().mean()))


def test_any_function_of_two_numbers() -> None:
    axes = plot.landscape(lambda w, b: F.mse_loss(w * X + b, Y), labels=("slope", "shift"), points=9)
    assert star(axes) == (2, -1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("slope", "shift")
    assert axes.get_title().startswith("lambda: lowest at slope = 2, shift = −1")


def test_a_surface_that_is_not_finite_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    axes, (_, _, values) = grid(monkeypatch, lambda: plot.landscape(lambda a, b: torch.log(a) ** 2 + b**2, points=9))
    assert numpy.isnan(values[:, :5]).all()
    assert star(axes) == (1, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plot.landscape("triplet"),
            "landscape: triplet_margin_loss has no map over two inputs; give one of binary_cross_entropy_with_logits, "
            "cross_entropy, huber_loss, l1_loss, mse_loss, multi_margin_loss, multilabel_margin_loss, "
            "multilabel_soft_margin_loss, poisson_nll_loss, smooth_l1_loss, soft_margin_loss, or a function of two "
            "numbers.",
        ),
        (
            lambda: plot.landscape("mse", X),
            "landscape: input and target belong together; give both for a line, or neither.",
        ),
        (
            lambda: plot.landscape("ce", X, Y),
            "landscape: a line needs a loss such as mse and as many inputs as targets, got cross_entropy with shapes "
            "(4,) and (4,).",
        ),
        (
            lambda: plot.landscape("mse", span=(2, 1)),
            "landscape: span must go from a smaller to a larger number and points be 2 or more, got span=(2, 1), "
            "points=81.",
        ),
        (
            lambda: plot.landscape(lambda a, b: torch.log(-1 - a**2)),
            "landscape: lambda is finite nowhere in span=(-4.0, 4.0); give another span.",
        ),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(losskit.LosskitError, match=f"^{re.escape(message)}$"):
        call()


def test_a_line_of_what_is_no_tensor() -> None:
    with pytest.raises(TypeError, match=r"^landscape: input must be a torch\.Tensor, got list\.$"):
        plot.landscape("mse", [1.0, 2.0], torch.ones(2))
