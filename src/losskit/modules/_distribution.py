"""Losses of a distribution, or of its parameters."""

from torch import Tensor, nn

from losskit import functional
from losskit.core.reduction import WITH_BATCHMEAN
from losskit.modules._options import Options


class GaussianNLLLoss(Options, nn.GaussianNLLLoss):
    """Negative log-likelihood of a normal variable: `losskit.functional.gaussian_nll_loss` with its options.

    **Example**:

    >>> import torch
    >>> GaussianNLLLoss()(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]), torch.tensor([1.0, 4.0]))
    tensor(0.4091)
    """

    full: bool
    eps: float

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.gaussian_nll_loss(
            input,
            target,
            var,
            full=self.full,
            eps=self.eps,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class KLDivLoss(Options, nn.KLDivLoss):
    """Kullback-Leibler divergence: `losskit.functional.kl_div` with its options.

    **Example**:

    >>> import torch
    >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    >>> KLDivLoss(reduction="batchmean")(log_probs, torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    tensor(0.0719)
    """

    log_target: bool
    reductions = WITH_BATCHMEAN

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.kl_div(
            input,
            target,
            log_target=self.log_target,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )


class PoissonNLLLoss(Options, nn.PoissonNLLLoss):
    """Negative log-likelihood of a count: `losskit.functional.poisson_nll_loss` with its options.

    **Example**:

    >>> import torch
    >>> PoissonNLLLoss()(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    tensor(0.8591)
    """

    log_input: bool
    full: bool
    eps: float

    def forward(
        self,
        log_input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.poisson_nll_loss(
            log_input,
            target,
            log_input=self.log_input,
            full=self.full,
            eps=self.eps,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
