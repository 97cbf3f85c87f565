"""Losses of the distance between vectors."""

from torch import Tensor, nn

from losskit import functional
from losskit.modules._options import Options


class CosineEmbeddingLoss(Options, nn.CosineEmbeddingLoss):
    """Cosine between two vectors against a sign: `losskit.functional.cosine_embedding_loss` with its options.

    **Example**:

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> CosineEmbeddingLoss()(x, torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([1, -1]))
    tensor(0.5000)
    """

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
        return functional.cosine_embedding_loss(
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


class TripletMarginLoss(Options, nn.TripletMarginLoss):
    """Distance to a positive against distance to a negative: `losskit.functional.triplet_margin_loss` with its options.

    **Example**:

    >>> import torch
    >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.5]])
    >>> TripletMarginLoss()(a, p, n)
    tensor(1.5000)
    """

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class TripletMarginWithDistanceLoss(Options, nn.TripletMarginWithDistanceLoss):
    """The triplet loss with any distance.

    `losskit.functional.triplet_margin_with_distance_loss` with its options.

    **Example**:

    >>> import torch
    >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 4.5]])
    >>> TripletMarginWithDistanceLoss(distance_function=lambda x, y: (x - y).abs().amax(-1))(a, p, n)
    tensor(0.5000)
    """

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
