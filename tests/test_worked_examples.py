"""The examples that tutorials teach, through the functions and the classes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import losskit
from losskit import functional as F

ONE_TO_THREE = [1.0, 2.0, 3.0]
IMAGES = torch.tensor([[ONE_TO_THREE]])[None]
LOG_PROBS = torch.tensor(
    [
        [-3.2056, -1.7804, -0.4350, -3.9833, -2.0795],
        [-2.1543, -1.8606, -1.5360, -1.1057, -1.7025],
        [-2.3243, -0.7615, -1.1595, -2.5594, -3.1195],
    ]
)
TWO_ROWS = torch.tensor([[0.0541, 0.1762, 0.9489], [-0.0288, -0.8072, 0.4909]])
THREE_ROWS = torch.tensor([[0.1234, 0.5555, 0.3211]] * 3)


def shown(loss: Tensor) -> list[float] | float:
    """To four decimals, as the tutorials print it."""
    return [round(value, 4) for value in loss.tolist()] if loss.ndim else round(loss.item(), 4)


# Number, criterion, function, input, target, what is printed.
EXAMPLES = [
    ("1 mean", losskit.L1Loss(), F.l1_loss, IMAGES, torch.tensor([[[[1.0, 2.0, 5.0]]]]), 0.6667),
    (
        "1 sum",
        losskit.L1Loss(reduction="sum"),
        lambda x, y: F.l1_loss(x, y, reduction="sum"),
        IMAGES,
        torch.tensor([[[[1.0, 2.0, 5.0]]]]),
        2.0,
    ),
    ("2 mean", losskit.MSELoss(), F.mse_loss, IMAGES, torch.tensor([[[[1.0, 2.0, 5.0]]]]), 1.3333),
    (
        "2 sum",
        losskit.MSELoss(reduction="sum"),
        lambda x, y: F.mse_loss(x, y, reduction="sum"),
        IMAGES,
        torch.tensor([[[[1.0, 2.0, 5.0]]]]),
        4.0,
    ),
    ("4", losskit.CrossEntropyLoss(), F.cross_entropy, torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1]), 1.1019),
    ("5 mean", losskit.MSELoss(), F.mse_loss, torch.tensor(ONE_TO_THREE), torch.tensor([2.0, 2.0, 4.0]), 0.6667),
    (
        "5 sum",
        losskit.MSELoss(reduction="sum"),
        lambda x, y: F.mse_loss(x, y, reduction="sum"),
        torch.tensor(ONE_TO_THREE),
        torch.tensor([2.0, 2.0, 4.0]),
        2.0,
    ),
    ("6 l1", losskit.L1Loss(), F.l1_loss, torch.tensor(ONE_TO_THREE), torch.tensor([2.0, 2.0, 4.0]), 0.6667),
    (
        "6 smooth",
        losskit.SmoothL1Loss(),
        F.smooth_l1_loss,
        torch.tensor(ONE_TO_THREE),
        torch.tensor([2.0, 2.0, 4.0]),
        0.3333,
    ),
    ("7", losskit.CrossEntropyLoss(), F.cross_entropy, torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([1]), 1.2398),
    ("8 mean", losskit.NLLLoss(), F.nll_loss, LOG_PROBS, torch.tensor([1, 0, 4]), 2.3514),
    (
        "8 sum",
        losskit.NLLLoss(reduction="sum"),
        lambda x, y: F.nll_loss(x, y, reduction="sum"),
        LOG_PROBS,
        torch.tensor([1, 0, 4]),
        7.0542,
    ),
    (
        "9 none",
        losskit.CrossEntropyLoss(reduction="none"),
        lambda x, y: F.cross_entropy(x, y, reduction="none"),
        TWO_ROWS,
        torch.tensor([0, 2]),
        [1.5210, 0.6247],
    ),
    ("9 mean", losskit.CrossEntropyLoss(), F.cross_entropy, TWO_ROWS, torch.tensor([0, 2]), 1.0729),
    ("10", losskit.CrossEntropyLoss(), F.cross_entropy, THREE_ROWS, torch.tensor([0, 1, 2]), 1.1142),
    (
        "10 nll",
        torch.nn.Sequential(torch.nn.LogSoftmax(1)),
        lambda x, y: F.nll_loss(F.log_softmax(x, 1), y),
        THREE_ROWS,
        torch.tensor([0, 1, 2]),
        1.1142,
    ),
]


@pytest.mark.parametrize(
    ("criterion", "function", "input", "target", "printed"),
    [example[1:] for example in EXAMPLES],
    ids=[example[0] for example in EXAMPLES],
)
def test_example(
    criterion: torch.nn.Module,
    function: Callable[[Tensor, Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    printed: float | list[float],
) -> None:
    assert shown(function(input, target)) == printed
    if isinstance(criterion, torch.nn.Sequential):
        assert shown(losskit.NLLLoss()(criterion(input), target)) == printed
    else:
        assert shown(criterion(input, target)) == printed


def test_3_an_unknown_reduction_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^L1Loss: reduction must be 'none', 'mean' or 'sum', got 'mean/sum'\.$"):
        losskit.L1Loss(reduction="mean/sum")
    with pytest.raises(ValueError, match=r"^l1_loss: reduction must be 'none', 'mean' or 'sum', got 'mean/sum'\.$"):
        F.l1_loss(IMAGES, IMAGES, reduction="mean/sum")


def test_5_legacy_flags_win_over_reduction() -> None:
    input, target = torch.tensor(ONE_TO_THREE), torch.tensor([2.0, 2.0, 4.0])
    with pytest.warns(UserWarning, match="reduction='none'"):
        criterion = losskit.MSELoss(size_average=False, reduce=False, reduction="sum")
    assert shown(criterion(input, target)) == [1.0, 0.0, 1.0]
    with pytest.warns(UserWarning, match="size_average and reduce are deprecated: write reduction='none' instead"):
        loss = F.mse_loss(input, target, size_average=False, reduce=False, reduction="sum")
    assert shown(loss) == [1.0, 0.0, 1.0]


def test_10_cross_entropy_is_log_softmax_and_negative_log_likelihood() -> None:
    target = torch.tensor([0, 1, 2])
    assert shown(losskit.CrossEntropyLoss()(THREE_ROWS, target)) == 1.1142
    assert shown(losskit.NLLLoss()(torch.nn.LogSoftmax(dim=1)(THREE_ROWS), target)) == 1.1142


def test_11_scores_are_not_probabilities() -> None:
    """The mistake itself gives the 3.8162 of the tutorials; a class-probability target shows what the formula takes."""
    one_hot = torch.eye(3)
    assert round(-(one_hot * THREE_ROWS.log()).sum().item(), 4) == 3.8162
    assert shown(F.cross_entropy(THREE_ROWS, one_hot)) == 1.1142


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (100, 1)])
def test_12_bce_of_the_sigmoid_is_bce_with_logits(shape: tuple[int, int]) -> None:
    logits = torch.randn(shape)
    target = (torch.rand(shape) > 0.5).float()
    of_sigmoid = losskit.BCELoss()(torch.sigmoid(logits), target)
    of_logits = losskit.BCEWithLogitsLoss()(logits, target)
    # Forming 1 − sigmoid(x) loses digits of a small loss: a few steps of a probability near 1.
    assert abs(of_sigmoid - of_logits) <= 16 * torch.finfo(torch.float32).eps * max(1.0, float(of_logits))


def test_13_softmax_twice_hides_a_perfect_classifier() -> None:
    logits = 100 * torch.eye(10)
    target = torch.arange(10)
    assert shown(losskit.CrossEntropyLoss()(logits, target)) == 0.0
    assert shown(losskit.CrossEntropyLoss()(torch.softmax(logits, 1), target)) == 1.4612


def test_14_the_same_before_nll_loss() -> None:
    probabilities = torch.softmax(100 * torch.eye(10), 1)
    assert shown(losskit.NLLLoss()(torch.log_softmax(probabilities, 1), torch.arange(10))) == 1.4612


def test_statements_of_the_tutorials() -> None:
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 2])
    one_hot = torch.nn.functional.one_hot(target, 4).float()
    # Index targets need no one-hot.
    torch.testing.assert_close(F.cross_entropy(logits, target), F.cross_entropy(logits, one_hot), rtol=1e-6, atol=0)
    # A class-probability target mixes labels.
    mixed = torch.full((6, 4), 0.25)
    single = torch.stack([F.cross_entropy(logits, torch.full((6,), k)) for k in range(4)])
    torch.testing.assert_close(F.cross_entropy(logits, mixed), single.mean(), rtol=1e-6, atol=0)
    # Label smoothing mixes the target with the uniform distribution.
    torch.testing.assert_close(
        F.cross_entropy(logits, target, label_smoothing=0.2),
        F.cross_entropy(logits, 0.8 * one_hot + 0.2 * mixed),
        rtol=1e-6,
        atol=0,
    )
    # SmoothL1 and Huber sit between MSE and L1: quadratic below beta, linear above.
    x, zero = torch.tensor([0.5, 3.0]), torch.zeros(2)
    assert F.smooth_l1_loss(x, zero, reduction="none").tolist() == [0.125, 2.5]
    assert F.huber_loss(x, zero, reduction="none").tolist() == [0.125, 2.5]
    # L1 has the subgradient 0 at 0.
    x = torch.tensor([0.0, -2.0, 2.0], requires_grad=True)
    F.l1_loss(x, torch.zeros(3), reduction="sum").backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, -1.0, 1.0]


def test_ignore_index_takes_a_row_out_of_value_gradient_and_divisor() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = F.cross_entropy(logits, torch.tensor([1, -100, 2]))
    torch.testing.assert_close(loss, F.cross_entropy(logits[[0, 2]], torch.tensor([1, 2])), rtol=1e-6, atol=0)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0.0] * 4
    assert bool((logits.grad[[0, 2]] != 0).all())
