"""The loss of a sequence of labels whose places in a longer sequence of frames are not known."""

from torch import Tensor, nn

from losskit import functional
from losskit.functional._ctc import Lengths
from losskit.modules._options import Options


class CTCLoss(Options, nn.CTCLoss):
    """Connectionist temporal classification: `losskit.functional.ctc_loss` with its options.

    **Example**:

    >>> import torch
    >>> log_probs = torch.log_softmax(torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]), 1)
    >>> CTCLoss()(log_probs, torch.tensor([1]), (2,), (1,))
    tensor(1.1019)
    """

    def forward(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Lengths,
        target_lengths: Lengths,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
