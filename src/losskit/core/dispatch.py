"""Which backend runs a call, and why."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from losskit.errors import BackendError, LosskitRuntimeError, LosskitValueError

BACKENDS = ("auto", "reference", "cpu", "triton")
# Since PyTorch 2.7. Before that a graph for export looks like any other.
_TELLS_EXPORT = hasattr(torch.compiler, "is_exporting")
# kMaxDims of csrc/tensors.h.
MAX_DIMS = 12


@dataclass(frozen=True)
class Dispatch:
    """The backend that ran a call and the reason for it."""

    backend: str
    reason: str


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether the values of these tensors can be read now: no tracing, no transform, no fake or meta tensor."""
    return obstacle(*tensors) is None


def obstacle(*tensors: Tensor | None) -> str | None:
    """Why a kernel that reads memory cannot run on these tensors, or None."""
    if torch.compiler.is_compiling():
        return "torch.compile is tracing"
    reason = _mode() or _foreign(*tensors)
    if reason is not None:
        return reason
    for tensor in tensors:
        if tensor is None:
            continue
        reason = _wrapped(tensor)
        if reason is not None:
            return reason
        if tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor():
            return "a tensor is a lazy negative, conjugate or zero"
    return None


def plain_obstacle(*tensors: Tensor | None) -> str | None:
    """Why a node of plain torch operations cannot run on these tensors, on whatever device, or None.

    Such a node reads numbers, and hides its operations from transforms and from whoever traces. It may run under a
    mode that only looks on.
    """
    reason = _transform() or _tracing_mode() or _unusual(*tensors)
    if reason is not None:
        return reason
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type == "meta":
            return "a tensor is on meta"
        reason = _wrapped(tensor)
        if reason is not None:
            return reason
    return None


def trace_obstacle(*tensors: Tensor | None, any_device: bool = False) -> str | None:
    """Why torch.compile cannot take a kernel on these tensors into its graph, as an operator, or None."""
    if not _TELLS_EXPORT:
        return "torch.compile is tracing"
    if torch.compiler.is_exporting():
        # An exported graph is to run where losskit is not installed.
        return "torch.export is tracing"
    # Dynamo cannot compare peek_interpreter_stack() with None.
    if torch._C._are_functorch_transforms_active():
        return "a torch.func transform is active"
    # Lazy negatives are no obstacle: torch resolves them before it calls an operator.
    return _unusual(*tensors) if any_device else _foreign(*tensors)


def _foreign(*tensors: Tensor | None) -> str | None:
    for tensor in tensors:
        if tensor is None:
            continue
        reason = _unusual(tensor)
        if reason is not None:
            return reason
        if tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}"
        if tensor.ndim > MAX_DIMS:
            return f"a tensor has more than {MAX_DIMS} dimensions"
    return None


def _unusual(*tensors: Tensor | None) -> str | None:
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) is not Tensor and type(tensor) is not Parameter:
            return f"{type(tensor).__name__} is a subclass of Tensor"
        if tensor.layout != torch.strided:
            return f"a tensor has the layout {tensor.layout}"
    return None


def _wrapped(tensor: Tensor) -> str | None:
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        return "a tensor is batched by vmap"
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or torch._is_functional_tensor(tensor):
        return "a tensor is left over from a torch.func transform"
    return None


def _transform() -> str | None:
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if forward_ad._current_level >= 0:
        return "forward-mode AD is active"
    return None


def _tracing_mode() -> str | None:
    key = torch._C._TorchDispatchModeKey
    if any(torch._C._get_dispatch_mode(one) is not None for one in (key.FAKE, key.PROXY, key.FUNCTIONAL)):
        return "a torch dispatch mode that traces is active"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace is tracing"
    return None


def _mode() -> str | None:
    reason = _transform()
    if reason is not None:
        return reason
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a torch dispatch mode is active"
    if torch._C._len_torch_function_stack() > 0:
        return "a torch function mode is active"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace is tracing"
    return None


def named_backend_error(function: str, backend: str, reason: str) -> BackendError:
    return BackendError(f"{function}: backend={backend!r} cannot run this call: {reason}. backend='auto' can.")


def changed_meanwhile(function: str) -> LosskitRuntimeError:
    """The kernel has found a fault that the tensors no longer have."""
    return LosskitRuntimeError(
        f"{function}: a value was out of range when the kernel read it, and is in range now: does another thread write "
        "to the tensors?"
    )


# How many explain_dispatch calls run now, in any thread: the one thing that a call has to look at when nobody asks.
watchers = 0
_watch = threading.local()


def note(backend: str, reason: str) -> None:
    """Say what runs the present call, to whoever asked in this thread."""
    if watchers and not torch.compiler.is_compiling() and hasattr(_watch, "seen"):
        _watch.seen.append(Dispatch(backend, reason))


def note_more(reason: str) -> None:
    """Add to the reason that was noted last."""
    if watchers and not torch.compiler.is_compiling() and getattr(_watch, "seen", None):
        last = _watch.seen.pop()
        _watch.seen.append(Dispatch(last.backend, f"{last.reason}; {reason}"))


def explain_dispatch(function: Any, *args: Any, **kwargs: Any) -> Dispatch:
    """Run a losskit function or module and say which backend ran it, and why.

    **Args**: `function`: a function of `losskit.functional` or a loss module; the rest goes to it.

    **Returns**: `Dispatch(backend, reason)`.

    **Raises**: whatever the call raises; `LosskitValueError` where the call runs no loss of losskit.

    **Example**:

    >>> import torch, losskit
    >>> losskit.explain_dispatch(losskit.functional.mse_loss, torch.ones(3), torch.zeros(3), backend="reference")
    Dispatch(backend='reference', reason="backend='reference' was asked for")
    """
    global watchers
    before = getattr(_watch, "seen", None)
    seen: list[Dispatch] = []
    watchers += 1
    _watch.seen = seen
    try:
        function(*args, **kwargs)
    finally:
        watchers -= 1
        if before is None:
            del _watch.seen
        else:
            _watch.seen = before
    if not seen:
        raise LosskitValueError(f"explain_dispatch: {function!r} ran no loss of losskit.")
    return seen[-1]
