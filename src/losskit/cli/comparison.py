"""A loss of losskit beside torch's: values and gradients first, then time. What `losskit bench` has without a clone."""

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from losskit import functional

__all__ = ["WORKLOADS", "Result", "Spread", "compare"]

# An error may be twice torch's own in float32, and a few roundings.
FACTOR, ROUNDINGS = 2.0, 4.0
LEAST_ROUNDS = 7

Data = tuple[Tensor, Tensor]


def _classes(generator: torch.Generator) -> Data:
    return torch.randn(1024, 1000, generator=generator), torch.randint(1000, (1024,), generator=generator)


def _numbers(generator: torch.Generator) -> Data:
    return torch.randn(10**6, generator=generator), torch.randn(10**6, generator=generator)


def _labels(generator: torch.Generator) -> Data:
    return torch.randn(10**6, generator=generator), torch.randint(2, (10**6,), generator=generator).float()


WORKLOADS: dict[str, tuple[str, Callable[[torch.Generator], Data]]] = {
    "cross_entropy": ("1024 samples of 1000 classes", _classes),
    "mse_loss": ("a million numbers", _numbers),
    "huber_loss": ("a million numbers", _numbers),
    "binary_cross_entropy_with_logits": ("a million labels", _labels),
}


class Spread(NamedTuple):
    """Seconds of a forward and backward pass: the median and the quartiles around it."""

    median: float
    lower: float
    upper: float


class Result(NamedTuple):
    # The largest error of value and gradient against torch in float64, relative to the largest magnitude there.
    error: float
    torch_error: float
    # None where the values are wrong: a speed means nothing then.
    losskit: Spread | None
    torch: Spread | None


def compare(name: str, seconds: float) -> Result:
    """Check the loss called `name` on its workload, then time it against torch's, in turn."""
    input, target = WORKLOADS[name][1](torch.Generator().manual_seed(0))
    ours, theirs = getattr(functional, name), getattr(torch.nn.functional, name)
    exact_target = target.double() if target.is_floating_point() else target
    exact = _step(theirs, input.double(), exact_target)
    error, torch_error = (_error(_step(function, input, target), exact) for function in (ours, theirs))
    # Written so that a NaN is refused too.
    if not error <= FACTOR * torch_error + ROUNDINGS * torch.finfo(torch.float32).eps:
        return Result(error, torch_error, None, None)
    samples: dict[str, list[float]] = {"losskit": [], "torch": []}
    start = perf_counter()
    while perf_counter() - start < seconds or len(samples["torch"]) < LEAST_ROUNDS:
        for library, function in (("losskit", ours), ("torch", theirs)):
            begin = perf_counter()
            _step(function, input, target)
            samples[library].append(perf_counter() - begin)
    return Result(error, torch_error, _spread(samples["losskit"]), _spread(samples["torch"]))


def _step(function: Callable[[Tensor, Tensor], Tensor], input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = input.detach().requires_grad_()
    value = function(leaf, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def _error(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    errors = [
        float((part.double() - true).abs().max() / true.abs().max()) for part, true in zip(found, exact, strict=True)
    ]
    # Not max(), which would drop a NaN.
    return float(torch.tensor(errors, dtype=torch.float64).max())


def _spread(samples: list[float]) -> Spread:
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, lower, upper)
