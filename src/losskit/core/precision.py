"""Which dtype a loss is computed in and returned in."""

from typing import Any

import torch
from torch import Tensor

HALF_DTYPES = (torch.float16, torch.bfloat16)


def autocast(*tensors: Tensor | None) -> list[Any]:
    """The inputs as autocast hands them to a loss: losses are on its float32 list, on every device.

    A tensor for each tensor, None for each None.
    """
    first = tensors[0]
    if first is None or not autocast_enabled(first.device.type):
        return list(tensors)
    return [widen(tensor) if tensor is not None and tensor.is_floating_point() else tensor for tensor in tensors]


def autocast_enabled(device: str) -> bool:
    # Asking about a device that autocast does not know, such as meta, raises.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def widen(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 are computed in float32; the cast carries the gradient back."""
    return tensor.float() if tensor.dtype in HALF_DTYPES else tensor


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype that arithmetic between these tensors has; their shapes broadcast."""
    given = [tensor for tensor in tensors if tensor is not None]
    if all(tensor.dtype == given[0].dtype for tensor in given):
        return given[0].dtype
    # By doing it, without memory: torch.compile does not trace torch.result_type.
    total = torch.zeros_like(given[0], device="meta")
    for tensor in given[1:]:
        total = total + torch.zeros_like(tensor, device="meta")
    return total.dtype


def floating_dtype(*tensors: Tensor) -> torch.dtype:
    """The same for losses that take integers: the default dtype where all tensors are of integers."""
    dtype = common_dtype(*tensors)
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def narrow(loss: Tensor, out_dtype: torch.dtype) -> Tensor:
    return loss if loss.dtype == out_dtype else loss.to(out_dtype)
