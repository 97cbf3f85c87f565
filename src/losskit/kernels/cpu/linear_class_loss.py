"""A linear layer and cross entropy through the kernels, some rows at a time: the scores of all rows never exist.

The gradients are computed along with the loss, while the scores of the rows are there: the gradient by the scores takes
their place, and two more matrix products make of it those by the input and by the layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.core.scores import ScoreOptions
from losskit.errors import LosskitRuntimeError
from losskit.kernels.cpu.autograd import OfSeveral
from losskit.kernels.cpu.class_loss import score_arguments
from losskit.kernels.cpu.extension import dtype_code, ext

# How many bytes of a layer in half precision stand in float32 at a time.
_WIDENED_BYTES = 1 << 24


@dataclass(frozen=True)
class LinearOptions:
    """What the loss of the scores needs beside them and the target."""

    weight: Tensor | None
    ignore_index: int
    label_smoothing: float
    # One factor for each row of input, and the numbers of the rows that count; None: all.
    row_weight: Tensor | None
    kept: Tensor | None
    # Whether there is one number, the sum divided by `divisor`, or a loss for each row.
    total: bool
    divisor: float
    # How many rows' scores may exist at a time.
    rows: int
    scores: ScoreOptions


def linear_class_loss(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    options: LinearOptions,
    out_dtype: torch.dtype,
    definition: Callable[..., Tensor],
    stats: Tensor | None,
) -> Tensor | None:
    """The loss of input (N, K) and linear_weight (C, K); None where a class index is out of range.

    `definition` is the loss of the first four, in plain torch operations. `stats` of `room_for_stats` is filled in.
    """
    tensors = (input, linear_weight, linear_bias, target)
    needs = tuple(torch.is_grad_enabled() and tensor is not None and tensor.requires_grad for tensor in tensors)
    wanted = needs if options.total else (False, False, False, False)
    result = _evaluate(tensors, options, None, 1.0, wanted, True, stats)
    if result is None:
        return None
    loss, grads = result
    loss = loss.to(out_dtype)
    if not any(needs):
        return loss

    def gradients(_: Any, saved: tuple[Tensor, ...], upstream: Any, needs: tuple[bool, ...]) -> list[Tensor | None]:
        each, one = (None, upstream) if options.total else (upstream, 1.0)
        again = _evaluate(saved[:4], options, each, one, needs, False, None)
        if again is None:
            # The forward pass took these targets; autograd would have seen a change by an operation that it knows of.
            raise LosskitRuntimeError("a target has left the range of the classes since the forward pass.")
        return again[1]

    others = tuple(tensor for tensor in (options.weight, options.row_weight) if tensor is not None)
    call = (gradients, lambda _, *tensors: definition(*tensors), None)
    packed = (loss, grads if options.total else None, others, call)
    # Function.apply has no annotations.
    return OfSeveral.apply(packed, *tensors)  # type: ignore[no-untyped-call, no-any-return]


@torch.no_grad()
def _evaluate(
    tensors: tuple[Any, ...],
    options: LinearOptions,
    grad_output: Tensor | None,
    upstream: float,
    needs: tuple[bool, ...],
    want_loss: bool,
    stats: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]] | None:
    """The loss, float32 or float64, and its gradients by the tensors that need one.

    Those of tensors in half precision are float32 here: whoever gets them rounds them once.
    """
    input, linear_weight, target = (tensors[i].detach() for i in (0, 1, 3))
    bias = None if tensors[2] is None else tensors[2].detach()
    count, classes = len(input), len(linear_weight)
    kept = options.kept
    # What torch divides by 0 is infinite or NaN; Python would raise.
    divisor = torch.tensor(options.divisor, dtype=torch.float64)
    grads = _Gradients(input, linear_weight, kept, needs)
    each = None if options.total or not want_loss else input.new_zeros(count, dtype=torch.float32)
    total = 0.0
    number = count if kept is None else len(kept)
    scores = ext.empty(min(options.rows, number), classes)
    if stats is not None and kept is not None:
        # Of rows that do not count, which no kernel sees.
        stats.copy_(stats.new_tensor([0.0, 0.0, 0.0, classes]))
    for begin in range(0, number, options.rows):
        end = min(begin + options.rows, number)
        place: Any = slice(begin, end) if kept is None else kept[begin:end]
        x = input[place].float()
        labels = target[place]
        if labels.is_floating_point():
            labels = labels.float()
        z = _product(x, linear_weight, bias, scores[: end - begin])
        part = None if stats is None else stats[place]
        result = ext.class_loss(
            log_probs=False,
            input=z,
            target=labels.contiguous(),
            weight=options.weight,
            ignore_index=options.ignore_index,
            label_smoothing=options.label_smoothing,
            row_weight=None if options.row_weight is None else options.row_weight[place],
            row_mask=None,
            grad_output=None if grad_output is None else grad_output[place].contiguous(),
            total=options.total,
            mean=False,
            divisor=1.0,
            upstream=float(upstream / divisor),
            want_loss=want_loss,
            want_grad=any(needs),
            inplace=True,
            out_dtype=dtype_code(torch.float64 if options.total else torch.float32),
            stats=part,
            **score_arguments(options.scores),
        )
        if result is None:
            return None
        if each is not None:
            each[place] = result[0]
        elif want_loss:
            total += float(result[0])
        if stats is not None and part is not None and kept is not None:
            stats[place] = part
        grads.add(place, x, z, linear_weight)
    if each is not None:
        return each, grads.all()
    return total / divisor, grads.all()


class _Gradients:
    """The gradients by input, linear_weight and linear_bias, added up over the chunks; the target has none."""

    def __init__(self, input: Tensor, linear_weight: Tensor, kept: Tensor | None, needs: tuple[bool, ...]) -> None:
        self._input: Tensor | None = None
        self._layer: Tensor | None = None
        self._bias: Tensor | None = None
        if needs[0]:
            self._input = ext.empty(*input.shape)
            if kept is not None:
                self._input.zero_()
        if needs[1]:
            self._layer = ext.empty(*linear_weight.shape).zero_()
        if needs[2]:
            self._bias = linear_weight.new_zeros(len(linear_weight), dtype=torch.float32)

    def add(self, place: Any, x: Tensor, by_scores: Tensor, linear_weight: Tensor) -> None:
        if self._input is not None:
            whole = isinstance(place, slice)
            part = self._input[place] if whole else torch.empty_like(x)
            for first, rows in enumerate(_parts(linear_weight)):
                columns = by_scores[:, rows]
                torch.addmm(part, columns, linear_weight[rows].float(), beta=int(first > 0), out=part)
            if not whole:
                self._input[place] = part
        if self._layer is not None:
            self._layer.addmm_(by_scores.t(), x)
        if self._bias is not None:
            self._bias += by_scores.sum(0)

    def all(self) -> list[Tensor | None]:
        return [self._input, self._layer, self._bias, None]


def _product(x: Tensor, linear_weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    for rows in _parts(linear_weight):
        torch.mm(x, linear_weight[rows].float().t(), out=out[:, rows])
    return out if bias is None else out.add_(bias)


def _parts(linear_weight: Tensor) -> list[slice]:
    """The rows of the layer that stand in float32 at a time: all, where they are that already."""
    classes, features = linear_weight.shape
    step = classes if linear_weight.dtype == torch.float32 else max(1, _WIDENED_BYTES // (4 * features))
    return [slice(begin, min(begin + step, classes)) for begin in range(0, classes, step)]
