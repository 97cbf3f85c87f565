"""Losses of a margin between scores."""

from torch import Tensor, nn

from losskit import functional
from losskit.modules._options import Options


class HingeEmbeddingLoss(Options, nn.HingeEmbeddingLoss):
    """Hinge of a distance: `losskit.functional.hinge_embedding_loss` with its options.

    **Example**:

    >>> import torch
    >>> HingeEmbeddingLoss(margin=2.0)(torch.tensor([0.5, 0.25]), torch.tensor([1.0, -1.0]))
    tensor(1.1250)
    """

    margin: float

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.hinge_embedding_loss(
            input,
            target,
            margin=self.margin,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class MarginRankingLoss(Options, nn.MarginRankingLoss):
    """Hinge of a difference of scores: `losskit.functional.margin_ranking_loss` with its options.

    **Example**:

    >>> import torch
    >>> MarginRankingLoss()(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.5]), torch.tensor([1.0, 1.0]))
    tensor(0.2500)
    """

    margin: float

    def forward(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.margin_ranking_loss(
            input1,
            input2,
            target,
            margin=self.margin,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class SoftMarginLoss(Options, nn.SoftMarginLoss):
    """Logistic loss of a score against a sign: `losskit.functional.soft_margin_loss` with its options.

    **Example**:

    >>> import torch
    >>> SoftMarginLoss()(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]))
    tensor(0.7201)
    """

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.soft_margin_loss(
            input,
            target,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
