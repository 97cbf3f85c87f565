"""The C++ extension, csrc/bindings.cpp. Tensors that have not been checked go to the lean functions alone."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

def connect(
    tensor_type: type[Tensor], parameter_type: type[Tensor], exchange_api: object | None, functions: dict[str, Any]
) -> None: ...
def uses_exchange_api() -> bool: ...
def instruction_sets() -> list[str]: ...
def choose_instruction_set(name: str, /) -> bool: ...
def instruction_set() -> str: ...

# None: this call is not for the lean path, or something is wrong with it. A tensor: the loss, which needs no gradient.
# A list: the loss and its gradient.
def lean_pointwise(
    loss: int, input: Tensor, target: Tensor, parameter: float, reduction: str, symmetric: bool, /
) -> Tensor | list[Tensor] | None: ...
def lean_class_loss(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    /,
) -> Tensor | list[Tensor] | None: ...
def lean_fused(
    loss: int, reduction: str, parameters: tuple[float, ...], /, *tensors: Tensor
) -> Tensor | list[Tensor | None] | None: ...
def lean_ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int,
    reduction: str,
    zero_infinity: bool,
    /,
) -> Tensor | list[Tensor] | None: ...

# The loss and its gradient, each where it is wanted; None where a value or a class index is out of range.
def pointwise(
    loss: int,
    input: Tensor,
    target: Tensor,
    parameter: float,
    weight: Tensor | None,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    grad_output: Tensor | None,
    total: bool,
    divisor: float,
    upstream: float,
    want_loss: bool,
    want_grad: bool,
    out_dtype: int,
) -> tuple[Any, Any] | None: ...
def fused(
    loss: int,
    tensors: list[Tensor],
    parameters: Sequence[float],
    weight: Tensor | None,
    mask: Tensor | None,
    class_weight: Tensor | None,
    grad_output: Tensor | None,
    total: bool,
    divisor: float,
    upstream: float,
    want_loss: bool,
    wants: int,
    out_dtype: int,
) -> tuple[Any, list[Tensor | None]] | None: ...
def class_loss(
    log_probs: bool,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    row_weight: Tensor | None,
    row_mask: Tensor | None,
    grad_output: Tensor | None,
    total: bool,
    mean: bool,
    divisor: float | None,
    upstream: float,
    want_loss: bool,
    want_grad: bool,
    inplace: bool,
    out_dtype: int,
    logit_scale: float = 1.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    stats: Tensor | None = None,
) -> tuple[Any, Any] | None: ...
def has_class_layout(input: Tensor, /) -> bool: ...
def ctc(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int,
    zero_infinity: bool,
    per_label: bool,
    weight: Tensor | None,
    mask: Tensor | None,
    grad_output: Tensor | None,
    total: bool,
    divisor: float,
    upstream: float,
    want_loss: bool,
    want_grad: bool,
    out_dtype: int,
) -> tuple[Any, Any] | None: ...
def has_ctc_layout(log_probs: Tensor, /) -> bool: ...

# None: grad_output cannot be read. False: the gradient must be computed anew.
def scale_gradient(grad: Tensor, grad_output: Tensor, /) -> bool | None: ...
def empty_cache() -> None: ...
def memory_stats() -> dict[str, int]: ...
def set_cache_limit(limit: int, /) -> None: ...

# A float32 matrix of the pool, whose numbers are not set.
def empty(rows: int, columns: int, /) -> Tensor: ...
