"""Losses of one number against another."""

from torch import Tensor, nn

from losskit import functional
from losskit.modules._options import Options


class L1Loss(Options, nn.L1Loss):
    """Absolute error: `losskit.functional.l1_loss` with its options.

    **Example**:

    >>> import torch
    >>> L1Loss(reduction="sum")(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
    tensor(2.)
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
        return functional.l1_loss(
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


class MSELoss(Options, nn.MSELoss):
    """Squared error: `losskit.functional.mse_loss` with its options.

    **Example**:

    >>> import torch
    >>> MSELoss()(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
    tensor(1.3333)
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
        return functional.mse_loss(
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


class SmoothL1Loss(Options, nn.SmoothL1Loss):
    """Absolute error with a rounded corner: `losskit.functional.smooth_l1_loss` with its options.

    **Example**:

    >>> import torch
    >>> SmoothL1Loss(beta=0.5)(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor(0.8750)
    """

    beta: float

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.smooth_l1_loss(
            input,
            target,
            reduction=self.reduction,
            beta=self.beta,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class HuberLoss(Options, nn.HuberLoss):
    """Squared error that turns linear: `losskit.functional.huber_loss` with its options.

    **Example**:

    >>> import torch
    >>> HuberLoss(delta=0.5)(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor(0.4375)
    """

    delta: float

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.huber_loss(
            input,
            target,
            reduction=self.reduction,
            delta=self.delta,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class BCELoss(Options, nn.BCELoss):
    """Cross entropy of a yes-no probability: `losskit.functional.binary_cross_entropy` with its options.

    **Example**:

    >>> import torch
    >>> BCELoss()(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
    tensor(0.1643)
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
        return functional.binary_cross_entropy(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class BCEWithLogitsLoss(Options, nn.BCEWithLogitsLoss):
    """Cross entropy of a yes-no score: `losskit.functional.binary_cross_entropy_with_logits` with its options.

    **Example**:

    >>> import torch
    >>> BCEWithLogitsLoss()(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
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
        return functional.binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
