"""What `reduction`, `sample_weight`, `mask`, `normalizer` and `on_empty` mean, for every loss and every backend."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.errors import EmptyLossError

REDUCTIONS = ("none", "mean", "sum")
# Those of kl_div. "batchmean" is the mean over samples, the rows of the first axis, of the sum of a sample's losses.
WITH_BATCHMEAN = (*REDUCTIONS, "batchmean")


def legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """The reduction that the two flags before PyTorch 0.4 stand for."""
    size_average = True if size_average is None else size_average
    reduce = True if reduce is None else reduce
    name = "none" if not reduce else "mean" if size_average else "sum"
    warnings.warn(
        f"size_average and reduce are deprecated: write reduction={name!r} instead.", UserWarning, stacklevel=3
    )
    return name


def where(counts: Tensor, values: Tensor) -> Tensor:
    """The values that count, and 0 elsewhere."""
    # A number in place of the tensor would be none of the kind of `values` where those are fake tensors, say.
    return torch.where(counts, values, values.new_zeros(()))


@dataclass(frozen=True)
class Options:
    """The options that every loss takes, as the call gives them."""

    reduction: str
    sample_weight: Tensor | None
    mask: Tensor | None
    normalizer: float | Tensor | None
    on_empty: str
    out_dtype: torch.dtype | None
    backend: str


@dataclass(frozen=True)
class Reduction:
    """The options of one call that turn its losses into its result, checked and fitted to their shape."""

    function: str
    name: str
    # Of the unreduced loss.
    shape: torch.Size
    # The length of the first axis of the input.
    samples: int
    # Both expanded to `shape`.
    sample_weight: Tensor | None
    mask: Tensor | None
    normalizer: float | Tensor | None
    on_empty: str

    def divisor(self, counts: Tensor | None) -> Tensor | float:
        """What the sum of the losses is divided by.

        `counts` is what each loss adds to the divisor of the mean (0 where it does not count), of shape `shape`, or
        None where each adds 1.
        """
        mean = self.name in ("mean", "batchmean") and self.normalizer is None
        total = self._total(counts) if mean or self.on_empty != "nan" else None
        divisor = self.normalizer if self.normalizer is not None else self._mean_over(total) if mean else 1.0
        if divisor is None or total is None or self.on_empty == "nan":
            return 1.0 if divisor is None else divisor
        # The sum of nothing is 0, and stays connected to the graph when it is divided by 1.
        if isinstance(total, float):
            if total == 0 and self.on_empty == "raise":
                raise self.empty_error()
            return divisor if total != 0 else 1.0
        if self.on_empty == "raise":
            if bool(total == 0):
                raise self.empty_error()
            return divisor
        return torch.where(total == 0, torch.ones_like(total), divisor)

    def _mean_over(self, total: Tensor | float | None) -> Tensor | float | None:
        """What the mean divides by, of the number of losses that count."""
        losses = math.prod(self.shape)
        if total is None or self.name == "mean":
            return total
        # As many samples as there would be without weights and a mask, times the share of what counts.
        return total * self.samples / losses if losses else float(self.samples)

    def _total(self, counts: Tensor | None) -> Tensor | float:
        """The number of losses that count, each times its weight."""
        share = counts
        if self.sample_weight is not None:
            share = self.sample_weight if share is None else share * self.sample_weight
        if self.mask is not None:
            share = self.mask if share is None else where(self.mask, share)
        if share is None:
            return float(math.prod(self.shape))
        # In float64: a float32 sum of ones is exact only up to 2**24.
        return share.sum(dtype=torch.float64 if share.device.type != "mps" else torch.float32)

    def apply(self, values: Tensor, counts: Tensor | None) -> Tensor:
        """Reduce unreduced losses, which are 0 wherever a loss does not count."""
        if self.sample_weight is not None:
            values = values * self.sample_weight
        if self.mask is not None:
            values = where(self.mask, values)
        if self.name == "none":
            return values
        plain = counts is None and self.sample_weight is None and self.mask is None and self.normalizer is None
        if plain and self.name == "mean" and self.on_empty == "nan":
            # Not a sum over a number: that number would be a constant of a traced graph.
            return values.mean()
        if plain and self.name == "batchmean" and self.on_empty == "nan" and values.shape[:1] in ((), (self.samples,)):
            return values.flatten(1).sum(1).mean() if values.ndim > 1 else values.mean()
        total, divisor = values.sum(), self.divisor(counts)
        if isinstance(divisor, Tensor):
            return total / divisor.to(total.dtype)
        # A tensor and not a number: forward-mode AD would turn the tangent of a 0-dim float32 into float64. 0 / 0 is
        # NaN, which is torch's mean of nothing.
        return total if divisor == 1.0 else total / total.new_full((), divisor)

    def empty_error(self) -> EmptyLossError:
        return EmptyLossError(
            f"{self.function}: no value counts (on_empty='raise'): every one is masked, ignored or of weight 0, "
            "or the input is empty."
        )
