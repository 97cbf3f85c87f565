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


class MultiLabelMarginLoss(Options, nn.MultiLabelMarginLoss):
    """Margin between scores of listed and other classes: `losskit.functional.multilabel_margin_loss` with its options.

    **Example**:

    >>> import torch
    >>> MultiLabelMarginLoss()(torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([[3, 0, -1, 1]]))
    tensor(0.8500)
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
        return functional.multilabel_margin_loss(
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


class MultiLabelSoftMarginLoss(Options, nn.MultiLabelSoftMarginLoss):
    """Mean of the binary cross entropies of a row of scores.

    `losskit.functional.multilabel_soft_margin_loss` with its options.

    **Example**:

    >>> import torch
    >>> MultiLabelSoftMarginLoss()(torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2201)
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
        return functional.multilabel_soft_margin_loss(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class MultiMarginLoss(Options, nn.MultiMarginLoss):
    """Margin between the score of a class and every other: `losskit.functional.multi_margin_loss` with its options.

    **Example**:

    >>> import torch
    >>> MultiMarginLoss()(torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3]))
    tensor(0.3250)
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
        return functional.multi_margin_loss(
            input,
            target,
            p=self.p,
            margin=self.margin,
            weight=self.weight,
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
