"""losskit: the loss functions of `torch.nn`, the same calls, many times faster, checked and explained."""

from importlib import import_module
from typing import Any

from losskit import functional
from losskit.core.dispatch import Dispatch, explain_dispatch
from losskit.errors import LosskitError
from losskit.memory import empty_cache, memory_stats, set_cache_limit, tune_malloc
from losskit.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    CTCLoss,
    GaussianNLLLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    LinearCrossEntropyLoss,
    MarginRankingLoss,
    MSELoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    NLLLoss2d,
    PoissonNLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)
from losskit.replace import replace_torch_losses

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "Dispatch",
    "Explanation",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "LosskitError",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "__version__",
    "empty_cache",
    "explain",
    "explain_dispatch",
    "functional",
    "memory_stats",
    "replace_torch_losses",
    "set_cache_limit",
    "tune_malloc",
]

__version__ = "0.1.0"

# Loaded when they are first asked for: a training does without them.
_LATER = {
    "Explanation": "losskit.explanation",
    "explain": "losskit.explanation",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'losskit' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
