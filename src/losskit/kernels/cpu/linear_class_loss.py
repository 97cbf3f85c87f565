"""Cross entropy of the scores of some rows through the kernel: the gradient takes the place of the scores."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.core.scores import PLAIN, ScoreOptions
from losskit.kernels.cpu.class_loss import score_arguments
from losskit.kernels.cpu.extension import dtype_code, ext


@dataclass(frozen=True)
class LinearOptions:
    """What the loss of the scores needs beside them and the target."""

    weight: Tensor | None
    ignore_index: int
    label_smoothing: float
    # One factor for each row of input.
    row_weight: Tensor | None
    # Whether there is one number or a loss for each row.
    total: bool
    scores: ScoreOptions = PLAIN

    def step(
        self,
        scores: Tensor,
        labels: Tensor,
        place: Any,
        grad_output: Tensor | None,
        factor: float,
        want_loss: bool,
        want_grad: bool,
        stats: Tensor | None,
    ) -> tuple[Tensor, Tensor | None] | None:
        """A step of the loop over the rows, as `losskit.kernels.linear.Step` says."""
        if labels.is_floating_point():
            labels = labels.float()
        result = ext.class_loss(
            log_probs=False,
            input=scores,
            target=labels.contiguous(),
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            row_weight=None if self.row_weight is None else self.row_weight[place],
            row_mask=None,
            grad_output=grad_output,
            total=self.total,
            mean=False,
            divisor=1.0,
            upstream=factor,
            want_loss=want_loss,
            want_grad=want_grad,
            inplace=True,
            out_dtype=dtype_code(torch.float64 if self.total else torch.float32),
            stats=stats,
            **score_arguments(self.scores),
        )
        return None if result is None else (result[0], scores if want_grad else None)


def empty(rows: int, columns: int) -> Tensor:
    """A float32 matrix of the pool, whose numbers are not set."""
    return ext.empty(rows, columns)
