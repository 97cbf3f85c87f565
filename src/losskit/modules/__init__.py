"""The losses as modules.

Each is a subclass of the class of the same name in `torch.nn`, where there is one: the same arguments, `repr`,
`state_dict` and `isinstance`. It adds the keywords `on_empty`, `out_dtype` and `backend`; `sample_weight`, `mask` and
`normalizer` belong to a batch and go to the call. What each loss computes is told at its function in
`losskit.functional`.
"""

from losskit.modules._contrastive import CLIPLoss, InfoNCELoss, SigLIPLoss
from losskit.modules._ctc import CTCLoss
from losskit.modules._distribution import GaussianNLLLoss, KLDivLoss, PoissonNLLLoss
from losskit.modules._embedding import CosineEmbeddingLoss, TripletMarginLoss, TripletMarginWithDistanceLoss
from losskit.modules._linear_softmax import LinearCrossEntropyLoss
from losskit.modules._margin import (
    HingeEmbeddingLoss,
    MarginRankingLoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    SoftMarginLoss,
)
from losskit.modules._pointwise import BCELoss, BCEWithLogitsLoss, HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from losskit.modules._softmax import CrossEntropyLoss, NLLLoss, NLLLoss2d

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CLIPLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "InfoNCELoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "SigLIPLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]
