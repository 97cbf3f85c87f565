"""The extension module `losskit._kernels`: whether it is here, and what it is connected to."""

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from losskit.errors import BackendError

# Of input and target. The codes are those of `DType` in csrc/kernels.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_DTYPE_CODES = {**DTYPES, torch.float64: 3, torch.int64: 4, torch.uint8: 5, torch.bool: 6}

_missing = ""
if TYPE_CHECKING:
    from losskit import _kernels

    ext = _kernels
else:
    try:
        from losskit import _kernels as ext
    except ImportError as error:
        ext = None
        _missing = f"the kernels are not built ({error})"


def _nothing_lean(*_: object) -> None:
    """The lean path where there are no kernels."""


lean_pointwise = _nothing_lean if ext is None else ext.lean_pointwise
lean_class_loss = _nothing_lean if ext is None else ext.lean_class_loss
lean_fused = _nothing_lean if ext is None else ext.lean_fused
lean_ctc = _nothing_lean if ext is None else ext.lean_ctc


def scale_gradient(gradient: Tensor, grad_output: Tensor) -> bool:
    """Multiply a gradient in place; False where it must be computed anew to be exact."""
    return bool(ext.scale_gradient(gradient, grad_output))


def dtype_code(dtype: torch.dtype) -> int:
    return _DTYPE_CODES[dtype]


def available() -> bool:
    return ext is not None


def unavailable_reason() -> str:
    return _missing


def description() -> str:
    """What runs, for `explain_dispatch` and `losskit info`."""
    return f"fused C++ kernel, instruction set {ext.instruction_set()}"


def instruction_sets() -> list[str]:
    """Those that this processor runs, the best first; the first is used unless LOSSKIT_ISA names another."""
    return list(ext.instruction_sets()) if ext is not None else []


def exchange() -> str:
    """How tensors reach the kernels."""
    if ext is None:
        return "-"
    return "DLPack C exchange API" if ext.uses_exchange_api() else "tensor attributes"


def empty_cache() -> None:
    if ext is not None:
        ext.empty_cache()


def memory_stats() -> dict[str, int]:
    if ext is None:
        return dict.fromkeys(("active_bytes", "cached_bytes", "peak_active_bytes", "limit_bytes", "hits", "misses"), 0)
    return dict(ext.memory_stats())


def set_cache_limit(limit: int) -> None:
    if ext is not None:
        ext.set_cache_limit(limit)


def _connect() -> None:
    ext.connect(
        torch.Tensor,
        torch.nn.Parameter,
        # Since PyTorch 2.10; without it the extension reads the tensors' attributes.
        getattr(torch.Tensor, "__dlpack_c_exchange_api__", None),
        {
            "interpreter": torch._C._functorch.peek_interpreter_stack,
            "dispatch_modes": torch._C._len_torch_dispatch_stack,
            "function_modes": torch._C._len_torch_function_stack,
            "tracing": torch._C._is_tracing,
            "autocast": torch._C._is_any_autocast_enabled,
            "grad_enabled": torch.is_grad_enabled,
            "threads": torch.get_num_threads,
            "forward_ad": forward_ad,
            "from_dlpack": torch.utils.dlpack.from_dlpack,
            "dtypes": _DTYPE_CODES,
            "strided": torch.strided,
        },
    )
    name = os.environ.get("LOSSKIT_ISA", "")
    if not ext.choose_instruction_set(name):
        raise BackendError(
            f"LOSSKIT_ISA={name!r} is not an instruction set of this processor: {', '.join(ext.instruction_sets())}."
        )


if ext is not None:
    _connect()
