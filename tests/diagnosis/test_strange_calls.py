"""Calls that few programs make: every check can read them, and an error is the one that the call has by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import losskit
from losskit.replace import FUNCTIONS

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPES = (
    (), (0,), (1,), (3,), (4, 3), (4, 1), (1, 3), (0, 3), (4, 0), (1, 1), (2, 3, 3), (2, 3, 4), (1, 2, 3), (2, 3, 2, 2),
    (2, 1, 2, 2), (0, 3, 2), (2, 3, 0),
)  # fmt: skip
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
# The tensors of a call, where there are not two.
INPUTS = {
    "clip_loss": 3,
    "cosine_embedding_loss": 3,
    "gaussian_nll_loss": 3,
    "linear_cross_entropy": 3,
    "margin_ranking_loss": 3,
    "siglip_loss": 3,
    "triplet_margin_loss": 3,
    "triplet_margin_with_distance_loss": 3,
}
NO_NUMBERS = (float("nan"), float("inf"), -float("inf"))


def tensor(choose: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    found = torch.randn(shape) * choose.choice((0, 0.1, 1, 100, 1e30 if dtype.is_floating_point else 10))
    if dtype.is_floating_point and choose.random() < 0.2 and found.numel():
        found.view(-1)[choose.randrange(found.numel())] = choose.choice((*NO_NUMBERS, 0.0, 1.0))
    found = found.to(dtype)
    if dtype.is_floating_point and choose.random() < 0.5:
        found.requires_grad_()
    if choose.random() < 0.2 and found.ndim > 1:
        found = found.transpose(0, 1).contiguous().transpose(0, 1)
    return found


def valid(choose: random.Random, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    shape, dtype = choose.choice(SHAPES), choose.choice(FLOATS)
    options = {"reduction": choose.choice(("none", "sum"))} if choose.random() < 0.4 else {}
    if name in ("cross_entropy", "nll_loss"):
        x = tensor(choose, shape, dtype)
        classes = shape[min(len(shape) - 1, 1)] if shape else 1
        rest = shape[:1] + shape[2:] if len(shape) > 1 else ()
        y = torch.full(rest, -100) if choose.random() < 0.2 else torch.randint(0, max(classes, 1), rest)
        return (x, tensor(choose, shape, dtype) if name == "cross_entropy" and choose.random() < 0.3 else y), options
    if name == "linear_cross_entropy":
        x, weight = tensor(choose, (4, 3), dtype), tensor(choose, (5, 3), dtype)
        return (x, weight, torch.randint(0, 5, (4,))), options
    if name in ("clip_loss", "info_nce", "siglip_loss"):
        size = choose.choice(((4, 3), (1, 3), (0, 3), (3, 1)))
        numbers = () if name == "info_nce" else (choose.choice((10.0, torch.tensor(2.0, requires_grad=True))),)
        return (tensor(choose, size, dtype), tensor(choose, size, dtype), *numbers), options
    if name == "cosine_embedding_loss":
        return (*(tensor(choose, (4, 3), dtype) for _ in range(2)), tensor(choose, (4,), dtype)), options
    if name == "gaussian_nll_loss":
        return (*(tensor(choose, shape, dtype) for _ in range(2)), torch.rand(shape).to(dtype)), options
    if name == "multi_margin_loss":
        return (tensor(choose, (4, 3), dtype), torch.randint(0, 3, (4,))), options
    if name == "multilabel_margin_loss":
        return (tensor(choose, (4, 3), dtype), torch.full((4, 3), -1)), options
    if name == "ctc_loss":
        n = choose.choice((1, 2))
        lengths = torch.randint(0, 6, (n,)), torch.randint(0, 4, (n,))
        return (tensor(choose, (5, n, 4), dtype), torch.randint(0, 4, (n, 3)), *lengths), options
    if name == "binary_cross_entropy":
        x = torch.rand(shape).round(decimals=choose.choice((0, 3))).to(dtype)
        return (x, torch.rand(shape).to(dtype)), options
    return tuple(tensor(choose, shape, dtype) for _ in range(INPUTS.get(name, 2))), options


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    # Any error, to be compared with another.
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strange_tensors(name: str) -> None:
    choose = random.Random(name)
    computed = 0
    for _ in range(80):
        args, options = valid(choose, name)
        for function in (getattr(F, name, None), getattr(losskit.functional, name)):
            if function is None:
                # torch lacks it.
                continue
            plain = outcome(lambda: function(*args, **options))  # noqa: B023  # called at once
            report = outcome(lambda: losskit.diagnose(function, *args, **options))  # noqa: B023  # called at once
            if isinstance(plain, str):
                assert report == plain or str(report.error) in plain
                continue
            computed += 1 if hasattr(F, name) else 2
            assert isinstance(report, losskit.Report), report
            # Of torch's own backward.
            assert [note for note in report.notes if not note.startswith("the gradient: backward raises ")] == []
            assert report.error is None
            assert str(report)
            assert report.to_json()
            torch.testing.assert_close(function(*args, **options), plain, rtol=0, atol=0, equal_nan=True)
    assert computed > 60


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "ctc_loss"])
def test_arguments_that_make_no_sense(name: str) -> None:
    choose = random.Random(name)

    def anything() -> Any:
        if choose.random() < 0.1:
            return choose.choice((None, 3, 2.5, "x", [1, 2], (1, 2)))
        return tensor(choose, choose.choice(SHAPES), choose.choice(DTYPES))

    for _ in range(60):
        args = tuple(anything() for _ in range(INPUTS.get(name, 2)))
        options = {"mask": anything()} if choose.random() < 0.2 else {}
        function = getattr(losskit.functional, name)
        plain = outcome(lambda: function(*args, **options))  # noqa: B023  # called at once
        report = outcome(lambda: losskit.diagnose(function, *args, **options))  # noqa: B023  # called at once
        if isinstance(plain, str):
            # Unchanged, or told with the findings that explain it.
            assert report == plain or f"{type(report.error).__name__}: {report.error}" == plain
            continue
        assert isinstance(report, losskit.Report)
        assert [note for note in report.notes if "failed" in note] == []
