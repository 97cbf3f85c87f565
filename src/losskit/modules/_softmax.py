"""Losses of a row of scores against a class."""

import warnings
from typing import Any

from torch import Tensor, nn

from losskit import functional
from losskit.core import inputs
from losskit.modules._options import Options


class CrossEntropyLoss(Options, nn.CrossEntropyLoss):
    """Cross entropy of class scores: `losskit.functional.cross_entropy` with its options.

    `inplace_backward=True` puts the gradient in the place of the logits as soon as the call returns.

    **Example**:

    >>> import torch
    >>> CrossEntropyLoss()(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([1]))
    tensor(1.1019)
    """

    # For modules that were pickled without them.
    inplace_backward: bool = False
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    return_stats: bool = False

    def __init__(
        self,
        *args: Any,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        return_stats: bool = False,
        inplace_backward: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        inputs.score_options(type(self).__name__, z_loss, softcap, logit_scale, return_stats)
        self.z_loss = z_loss
        self.softcap = softcap
        self.logit_scale = logit_scale
        self.return_stats = return_stats
        self.inplace_backward = inplace_backward

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Any:
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
            z_loss=self.z_loss,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            return_stats=self.return_stats,
            inplace_backward=self.inplace_backward,
            backend=self.backend,
        )


class NLLLoss(Options, nn.NLLLoss):
    """Negative log-likelihood of the target class: `losskit.functional.nll_loss` with its options.

    **Example**:

    >>> import torch
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


with warnings.catch_warnings():
    # PyTorch's deprecated class warns whoever makes a subclass of it, and that is no doing of the user's.
    warnings.simplefilter("ignore", FutureWarning)

    class NLLLoss2d(NLLLoss, nn.NLLLoss2d):
        """`NLLLoss` under the name it had for images, deprecated as in PyTorch: `losskit.functional.nll_loss`.

        **Example**:

        >>> import torch, warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", FutureWarning)
        ...     criterion = NLLLoss2d()
        >>> criterion(torch.log_softmax(torch.zeros(1, 2, 1, 1), 1), torch.tensor([[[1]]]))
        tensor(0.6931)
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            warnings.warn("NLLLoss2d is deprecated: NLLLoss takes the same.", FutureWarning, stacklevel=2)
            super().__init__(*args, **kwargs)
