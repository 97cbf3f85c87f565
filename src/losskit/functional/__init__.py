"""The losses as functions: the signatures of `torch.nn.functional`, plus keyword-only additions.

Every loss takes these keywords beyond PyTorch's:

* `sample_weight`: a weight per loss value, in the shape of the unreduced loss (or one that broadcasts to it).
  Multiplies each loss; `mean` divides by the sum of the weights that count.
* `mask`: bool, True where a value counts. The rest is out of the value, the gradient and the divisor; a NaN under the
  mask stays there.
* `normalizer`: a positive number or 0-dim tensor. The result is the sum divided by it.
* `on_empty`: what `mean` is when nothing counts: `"nan"` (PyTorch's answer), `"zero"` (connected to the graph),
  `"raise"`.
* `out_dtype`: the dtype of the result; None is PyTorch's. Half-precision inputs are computed in float32 either way, and
  `out_dtype=torch.float32` hands that precision over.
* `backend`: `"auto"`, `"reference"` (the definition in plain torch operations), `"cpu"` or `"triton"`. A backend that
  is named runs or raises.
"""

from torch.nn.functional import log_softmax, logsigmoid, softmax

from losskit.functional._contrastive import clip_loss, info_nce, siglip_loss
from losskit.functional._ctc import ctc_loss, explain_ctc
from losskit.functional._distribution import gaussian_nll_loss, kl_div, poisson_nll_loss
from losskit.functional._embedding import (
    cosine_embedding_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from losskit.functional._linear_softmax import linear_cross_entropy
from losskit.functional._margin import (
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    soft_margin_loss,
)
from losskit.functional._pointwise import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from losskit.functional._softmax import cross_entropy, nll_loss

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "explain_ctc",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "info_nce",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "log_softmax",
    "logsigmoid",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "siglip_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
