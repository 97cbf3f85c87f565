"""The C++ kernels: their choice of instruction set, and the autograd functions around them."""

from losskit.kernels.cpu.class_loss import class_layout, class_loss, join_lean_class_loss, target_like
from losskit.kernels.cpu.extension import (
    DTYPES,
    available,
    description,
    empty_cache,
    exchange,
    instruction_sets,
    lean_class_loss,
    lean_pointwise,
    memory_stats,
    set_cache_limit,
    unavailable_reason,
)
from losskit.kernels.cpu.pointwise import (
    BCE,
    BCE_WITH_LOGITS,
    HUBER,
    L1,
    MSE,
    SMOOTH_L1,
    SYMMETRIC,
    join_lean_pointwise,
    pointwise,
)

__all__ = [
    "BCE",
    "BCE_WITH_LOGITS",
    "DTYPES",
    "HUBER",
    "L1",
    "MSE",
    "SMOOTH_L1",
    "SYMMETRIC",
    "available",
    "class_layout",
    "class_loss",
    "description",
    "empty_cache",
    "exchange",
    "instruction_sets",
    "join_lean_class_loss",
    "join_lean_pointwise",
    "lean_class_loss",
    "lean_pointwise",
    "memory_stats",
    "pointwise",
    "set_cache_limit",
    "target_like",
    "unavailable_reason",
]
