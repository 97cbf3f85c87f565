"""Whether the values of tensors can be read now, without disturbing whoever made them."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["obstacle", "plain"]


def obstacle(*tensors: Any) -> str | None:
    """Why the values of these tensors cannot be read, or None."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a torch dispatch mode is active"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace is tracing"
    # A subclass of Tensor is not to see the questions.
    with torch._C.DisableTorchFunction():
        return next((reason for tensor in tensors if isinstance(tensor, Tensor) and (reason := _of(tensor))), None)


def _of(tensor: Tensor) -> str | None:
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"a tensor is a {type(tensor).__name__}"
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        return "a tensor is batched by vmap"
    if tensor.device.type == "meta":
        return "a tensor is on the meta device and has no values"
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        return "a tensor is sparse, nested or quantized"
    if tensor.is_complex():
        return "a tensor is complex"
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is captured"
    return None


def plain(tensor: Tensor) -> Tensor:
    """The values alone: outside the graph, and of no subclass."""
    values = tensor.detach()
    return values if type(values) is Tensor else values.as_subclass(Tensor)
