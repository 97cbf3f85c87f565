"""The lines that are drawn are the losses and their derivatives: against closed forms, for every loss there is."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import losskit
from losskit import functional as F
from losskit import plot
from losskit.catalog import LOSSES
from losskit.plot.sections import AXES, SECTIONS

softplus = torch.nn.functional.softplus


def frames(x: Tensor) -> Tensor:
    """−log of what is left when both frames are blank."""
    return -torch.log(1 - torch.sigmoid(-x) ** 2)


# The loss over its axis, in a form of its own, for the options that a name alone has.
CLOSED_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "binary_cross_entropy": lambda x: -x.log(),
    "binary_cross_entropy_with_logits": lambda x: softplus(-x),
    "clip_loss": lambda x: softplus(-10 * x.cos()),
    "cosine_embedding_loss": lambda x: 1 - x.cos(),
    "cross_entropy": lambda x: softplus(-x),
    "ctc_loss": frames,
    "gaussian_nll_loss": lambda x: x**2 / 2,
    "hinge_embedding_loss": lambda x: (1 - x).clamp(min=0),
    "huber_loss": lambda x: torch.where(x.abs() <= 1, x**2 / 2, x.abs() - 0.5),
    "info_nce": lambda x: softplus(-x.cos() / 0.07),
    "kl_div": lambda x: 0.5 * (math.log(0.5) - x),
    "l1_loss": lambda x: x.abs(),
    "linear_cross_entropy": lambda x: softplus(-x),
    "margin_ranking_loss": lambda x: (-x).clamp(min=0),
    "mse_loss": lambda x: x**2,
    "multi_margin_loss": lambda x: (1 - x).clamp(min=0) / 2,
    "multilabel_margin_loss": lambda x: (1 - x).clamp(min=0) / 2,
    "multilabel_soft_margin_loss": lambda x: softplus(-x),
    "nll_loss": lambda x: -x,
    "poisson_nll_loss": lambda x: x.exp() - 3 * x,
    "siglip_loss": lambda x: softplus(10 - 10 * x.cos()) + softplus(x.new_tensor(-10.0)),
    "smooth_l1_loss": lambda x: torch.where(x.abs() < 1, x**2 / 2, x.abs() - 0.5),
    "soft_margin_loss": lambda x: softplus(-x),
    "triplet_margin_loss": lambda x: (1 + x).clamp(min=0),
    "triplet_margin_with_distance_loss": lambda x: (1 + x).clamp(min=0),
}
# Where a derivative jumps.
KINKS = {
    "l1_loss": 0.0,
    "margin_ranking_loss": 0.0,
    "hinge_embedding_loss": 1.0,
    "multi_margin_loss": 1.0,
    "multilabel_margin_loss": 1.0,
    "triplet_margin_loss": -1.0,
    "triplet_margin_with_distance_loss": -1.0,
}


def data(axes: Any, index: int = 0) -> tuple[Tensor, Tensor]:
    x, y = axes.lines[index].get_data()
    return torch.as_tensor(x).double(), torch.as_tensor(y).double()


@pytest.mark.parametrize("info", LOSSES, ids=lambda info: info.name)
def test_every_loss_has_a_curve_and_it_is_the_loss(info: Any) -> None:
    value, gradient = plot.curve(info.name)
    axis = AXES[SECTIONS[info.name].axis]
    x, y = data(value)
    assert len(x) == 401
    assert (float(x[0]), float(x[-1])) == pytest.approx((axis.low, axis.high))
    form = CLOSED_FORMS[info.name]
    torch.testing.assert_close(y, form(x), rtol=2e-6, atol=3e-6)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(form(leaf).sum(), leaf)
    x, drawn = data(gradient)
    away = (x - KINKS.get(info.name, math.inf)).abs() > 1e-5
    torch.testing.assert_close(drawn[away], slope[away], rtol=2e-6, atol=3e-6)
    assert value.get_xlabel() == gradient.get_xlabel() == axis.label
    unit = "no unit" if info.unit == "none" else info.unit
    assert value.get_ylabel() == f"loss ({unit})"


def test_losses_by_name_function_and_module_with_their_options() -> None:
    criteria = [
        losskit.HuberLoss(delta=2),
        functools.partial(F.huber_loss, delta=2),
        torch.nn.HuberLoss(delta=2.0),
        F.mse_loss,
        torch.nn.functional.mse_loss,
        losskit.MSELoss(reduction="sum"),
        "MSELoss",
    ]
    axes = plot.compare(*criteria)
    huber, square = data(axes, 0)[1], data(axes, 3)[1]
    x = data(axes)[0]
    torch.testing.assert_close(huber, torch.where(x.abs() <= 2, x**2 / 2, 2 * (x.abs() - 1)), rtol=1e-6, atol=1e-6)
    for index in (1, 2):
        assert torch.equal(data(axes, index)[1], huber)
    for index in (4, 5, 6):
        assert torch.equal(data(axes, index)[1], square)
    labels = [text.get_text().partition(" (target")[0] for text in axes.get_legend().get_texts()]
    assert labels == [
        "HuberLoss(delta=2)",
        "huber_loss(delta=2)",
        "HuberLoss(delta=2)",
        *["mse_loss", "mse_loss", "MSELoss", "mse_loss"],
    ]


def test_a_loss_of_pairs_tells_the_numbers_that_it_was_given() -> None:
    axes = plot.compare(
        "clip_loss", functools.partial(F.clip_loss, logit_scale=2.0), losskit.CLIPLoss(init_scale=2.0), "siglip_loss"
    )
    x, y = data(axes)
    torch.testing.assert_close(y, softplus(-10 * x.cos()), rtol=2e-6, atol=3e-6)
    for index in (1, 2):
        torch.testing.assert_close(data(axes, index)[1], softplus(-2 * x.cos()), rtol=2e-6, atol=3e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "clip_loss, 2 pairs, logit_scale = 10",
        "clip_loss(logit_scale=2), 2 pairs",
        "CLIPLoss, 2 pairs",
        "siglip_loss, 2 pairs, logit_scale = 10, logit_bias = −10",
    ]


def test_a_module_stays_as_it_is() -> None:
    weight = torch.tensor([3.0, 1.0, 1.0])
    criterion = losskit.CrossEntropyLoss(weight=weight)
    axes = plot.compare(criterion)
    x, y = data(axes)
    torch.testing.assert_close(y, 3 * torch.log(1 + 2 * (-x).exp()), rtol=2e-6, atol=3e-6)
    assert criterion.reduction == "mean"
    assert criterion.weight is weight


def test_weights_of_labels() -> None:
    axes = plot.compare(losskit.BCEWithLogitsLoss(pos_weight=torch.tensor([4.0, 1.0])))
    x, y = data(axes)
    torch.testing.assert_close(y, 4 * softplus(-x), rtol=2e-6, atol=3e-6)


def test_the_other_target() -> None:
    axes = plot.compare("bce_with_logits", target=0)
    x, y = data(axes)
    torch.testing.assert_close(y, softplus(x), rtol=2e-6, atol=3e-6)
    assert axes.get_legend().get_texts()[0].get_text() == "binary_cross_entropy_with_logits, y = 0"
    x, y = data(plot.compare("hinge_embedding", target=1))
    assert torch.equal(x, y)


def test_a_target_that_a_loss_does_not_take() -> None:
    with pytest.raises(ValueError, match=r"^compare: target=0 is for losses that take one here, .*; cross_ent"):
        plot.compare("bce_with_logits", "cross_entropy", target=0)
    assert plot.compare("bce_with_logits", target=0).get_xlabel() == "logit"
    assert plot.compare("bce_with_logits", target=1).get_xlabel() == "logit of the true class, all others 0"


def test_where_no_gradients_are_wanted() -> None:
    with torch.no_grad():
        _, gradient = plot.curve("mse")
        x, y = data(gradient)
        torch.testing.assert_close(y, 2 * x)
        plot.question("reduction")


def test_a_loss_of_the_callers_own() -> None:
    def log_cosh(input: Tensor, target: Tensor) -> Tensor:
        return torch.log(torch.cosh(input - target))

    axes = plot.compare("mse", log_cosh, span=(-1, 1), points=11)
    x, y = data(axes, 1)
    assert len(x) == 11
    torch.testing.assert_close(y, torch.log(torch.cosh(x)), rtol=1e-5, atol=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()][1] == "log_cosh"
    logistic, own = plot.compare(
        "bce_with_logits", lambda input, target: softplus(-input * target), over="logit"
    ).lines[:2]
    torch.testing.assert_close(torch.as_tensor(own.get_ydata()), torch.as_tensor(logistic.get_ydata()))


def test_the_units_of_lines_that_differ() -> None:
    axes = plot.compare("mse", "l1")
    assert axes.get_ylabel() == "loss (units in the legend)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "mse_loss (target units squared)",
        "l1_loss (target units)",
    ]
    assert plot.compare("mse", "huber").get_ylabel() == "loss (target units squared)"


def test_axes_of_the_caller() -> None:
    from matplotlib.figure import Figure

    pair = Figure().subplots(1, 2)
    assert plot.curve("mse", ax=pair) == tuple(pair)
    (one,) = Figure().subplots(1, 1, squeeze=False)[0]
    assert plot.compare("mse", ax=one) is one
    assert len(one.lines) == 2  # and the line at 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.curve(), ValueError, "curve: name at least one loss, such as 'mse'."),
        (lambda: plot.curve(*["mse"] * 8), ValueError, "curve: 8 lines cannot be told apart; draw 7 at most."),
        (lambda: plot.curve("msee"), ValueError, "curve: no loss is called 'msee'. Did you mean 'mse'?"),
        (
            lambda: plot.compare("mse", "ce"),
            ValueError,
            "compare: mse_loss goes over the error and cross_entropy over the logit; draw them in two pictures.",
        ),
        (
            lambda: plot.compare("mse", of="slope"),
            ValueError,
            "compare: of must be 'value' or 'gradient', got 'slope'.",
        ),
        (
            lambda: plot.curve("mse", over="colour"),
            ValueError,
            "curve: over must be one of 'error', 'logit', 'log-probability', 'probability', 'log-rate', 'distance', "
            "'angle', 'difference', 'distances', got 'colour'.",
        ),
        (
            lambda: plot.curve("mse", target=1),
            ValueError,
            "curve: target=1 is for losses that take one here, such as binary_cross_entropy; mse_loss does not.",
        ),
        (
            lambda: plot.curve("mse", span=(1, 1)),
            ValueError,
            "curve: span must go from a smaller to a larger number and points be 2 or more, got span=(1, 1), "
            "points=401.",
        ),
        (
            lambda: plot.curve(3),
            TypeError,
            "curve: a loss is a name such as 'mse', a function or a module, got int.",
        ),
        (
            lambda: plot.curve(lambda x, y: (x - y).mean()),
            ValueError,
            "curve: lambda must return a loss for each of the 401 inputs, got shape (); leave the reduction out.",
        ),
        (
            lambda: plot.curve(losskit.LinearCrossEntropyLoss(2, 3)),
            TypeError,
            "curve: LinearCrossEntropyLoss holds a layer of its own; name 'linear_cross_entropy' instead.",
        ),
        (
            lambda: plot.curve("mse", ax=[]),
            TypeError,
            "curve: ax must be 2 matplotlib Axes, got 0 of them; leave it out for a new figure.",
        ),
        (
            lambda: plot.compare("mse", ax="here"),
            TypeError,
            "compare: ax must be one matplotlib Axes, got str; leave it out for a new figure.",
        ),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(losskit.LosskitError, match=f"^{re.escape(message)}$") as caught:
        call()
    assert isinstance(caught.value, error)
