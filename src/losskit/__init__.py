"""losskit: the loss functions of `torch.nn`, the same calls, many times faster, checked and explained."""

from importlib import import_module
from typing import Any

from losskit import functional
from losskit.core.dispatch import Dispatch, explain_dispatch
from losskit.core.scores import ClassStats
from losskit.errors import LosskitError, LossWarning
from losskit.memory import empty_cache, memory_stats, set_cache_limit, tune_malloc
from losskit.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CLIPLoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    CTCLoss,
    GaussianNLLLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    InfoNCELoss,
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
    SigLIPLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)
from losskit.replace import replace_torch_losses

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CLIPLoss",
    "CTCLoss",
    "ClassStats",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "Dispatch",
    "Explanation",
    "Finding",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "InfoNCELoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "LossWarning",
    "LosskitError",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "Report",
    "SigLIPLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "Watch",
    "__version__",
    "diagnose",
    "distributed",
    "empty_cache",
    "explain",
    "explain_dispatch",
    "functional",
    "memory_stats",
    "patch_causal_lm",
    "plot",
    "replace_torch_losses",
    "set_cache_limit",
    "suggest",
    "tune_malloc",
    "unpatch_causal_lm",
    "watch",
]

__version__ = "0.1.0"

# Loaded when first asked for: what a training does without.
_LAZY = {
    "Explanation": "losskit.explanation",
    "Finding": "losskit.diagnosis",
    "Report": "losskit.diagnosis",
    "Watch": "losskit.diagnosis",
    "diagnose": "losskit.diagnosis",
    "distributed": "losskit.distributed",
    "explain": "losskit.explanation",
    "patch_causal_lm": "losskit.causal_lm",
    "plot": "losskit.plot",
    "suggest": "losskit.suggestion",
    "unpatch_causal_lm": "losskit.causal_lm",
    "watch": "losskit.diagnosis",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'losskit' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    value = module if module.__name__ == f"losskit.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
