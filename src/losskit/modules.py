"""The losses as modules.

Each is a subclass of the class of the same name in `torch.nn`: the same arguments, `repr`, `state_dict` and
`isinstance`. It adds the keywords `on_empty`, `out_dtype` and `backend`; `sample_weight`, `mask` and `normalizer`
belong to a batch and go to the call. What each loss computes is told at its function in `losskit.functional`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from losskit import functional
from losskit.core import inputs

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
    "SmoothL1Loss",
]


class _Options(nn.Module):
    """The options beyond those of `torch.nn`, for whichever loss comes next in the order of bases."""

    # For modules that were pickled without them.
    on_empty: str = "nan"
    out_dtype: torch.dtype | None = None
    backend: str = "auto"
    reduction: str

    def __init__(
        self,
        *args: Any,
        on_empty: str = "nan",
        out_dtype: torch.dtype | None = None,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # A wrong name is better found where it is written than in the first batch.
        inputs.check_common_options(type(self).__name__, self.reduction, on_empty, out_dtype, backend)
        self.on_empty = on_empty
        self.out_dtype = out_dtype
        self.backend = backend


class L1Loss(_Options, nn.L1Loss):
    """Absolute error: `losskit.functional.l1_loss` with its options.

    **Example**:

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


class MSELoss(_Options, nn.MSELoss):
    """Squared error: `losskit.functional.mse_loss` with its options.

    **Example**:

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


class SmoothL1Loss(_Options, nn.SmoothL1Loss):
    """Absolute error with a rounded corner: `losskit.functional.smooth_l1_loss` with its options.

    **Example**:

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


class HuberLoss(_Options, nn.HuberLoss):
    """Squared error that turns linear: `losskit.functional.huber_loss` with its options.

    **Example**:

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


class BCELoss(_Options, nn.BCELoss):
    """Cross entropy of a yes-no probability: `losskit.functional.binary_cross_entropy` with its options.

    **Example**:

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


class BCEWithLogitsLoss(_Options, nn.BCEWithLogitsLoss):
    """Cross entropy of a yes-no score: `losskit.functional.binary_cross_entropy_with_logits` with its options.

    **Example**:

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


class CrossEntropyLoss(_Options, nn.CrossEntropyLoss):
    """Cross entropy of class scores: `losskit.functional.cross_entropy` with its options.

    `inplace_backward=True` puts the gradient in the place of the logits as soon as the call returns.

    **Example**:

    >>> CrossEntropyLoss()(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1]))
    tensor(1.1019)
    """

    inplace_backward: bool = False

    def __init__(self, *args: Any, inplace_backward: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inplace_backward = inplace_backward

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            inplace_backward=self.inplace_backward,
            backend=self.backend,
        )


class NLLLoss(_Options, nn.NLLLoss):
    """Negative log-likelihood of the target class: `losskit.functional.nll_loss` with its options.

    **Example**:

    >>> NLLLoss()(torch.log_softmax(torch.tensor([[0.1, 0.2, 0.3]]), 1), torch.tensor([1]))
    tensor(1.1019)
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
        return functional.nll_loss(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
