"""How wrong the gradient of each way to divide is, in DDP with accumulation: `python -m benchmarks.schemes`."""

from collections.abc import Callable

import torch
from torch import Tensor

from losskit.functional import cross_entropy

# How many targets count, for each rank and micro-batch.
COUNTED = ((3, 12), (17, 20))
RANKS, MICRO_BATCHES = len(COUNTED), len(COUNTED[0])
TOTAL = sum(map(sum, COUNTED))
TOKENS, FEATURES, CLASSES = 24, 6, 11

# What the sum of a micro-batch's losses is divided by, of its rank and its number.
SCHEMES: dict[str, Callable[[int, int], float]] = {
    "mean of the micro-batch ÷ number of micro-batches": lambda rank, number: COUNTED[rank][number] * MICRO_BATCHES,
    "sum ÷ tokens of the rank": lambda rank, _: sum(COUNTED[rank]),
    "sum ÷ tokens of all ranks, forgetting that DDP averages": lambda rank, number: TOTAL,
    "sum ÷ (tokens of all ranks ÷ ranks): `GlobalMean`": lambda rank, number: TOTAL / RANKS,
}


def micro_batches(dtype: torch.dtype = torch.float64) -> list[list[tuple[Tensor, Tensor]]]:
    """Input and target of each micro-batch of each rank."""
    generator = torch.Generator().manual_seed(0)
    found: list[list[tuple[Tensor, Tensor]]] = []
    for counted in COUNTED:
        found.append([])
        for count in counted:
            input = torch.randn(TOKENS, FEATURES, dtype=torch.float64, generator=generator).to(dtype)
            target = torch.randint(CLASSES, (TOKENS,), generator=generator)
            target[count:] = -100
            found[-1].append((input, target))
    return found


def layer() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(CLASSES, FEATURES, dtype=torch.float64, generator=generator)


def gradient(divisor: Callable[[int, int], float], averaged_over: int) -> Tensor:
    """The gradient by the layer when the ranks' gradients are added up and divided by `averaged_over`."""
    weight = layer().requires_grad_()
    total = sum(
        cross_entropy(input @ weight.t(), target, normalizer=float(divisor(rank, number)))
        for rank, batches in enumerate(micro_batches())
        for number, (input, target) in enumerate(batches)
    )
    (found,) = torch.autograd.grad(torch.as_tensor(total), weight)
    return found / averaged_over


def errors() -> dict[str, float]:
    """Relative to the gradient of one process with all tokens."""
    exact = gradient(lambda rank, number: TOTAL, 1)
    return {name: float((gradient(divisor, RANKS) - exact).norm() / exact.norm()) for name, divisor in SCHEMES.items()}


def markdown() -> str:
    """The rows of the table."""
    shown = {name: f"{error:.2f}" if error > 1e-12 else "0, to rounding" for name, error in errors().items()}
    return "\n".join(f"| {name} | {error} |" for name, error in shown.items())


if __name__ == "__main__":
    print(markdown())
