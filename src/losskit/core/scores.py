"""What can be asked of a row of scores beside its cross entropy."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class ClassStats(NamedTuple):
    """What `return_stats=True` gives for each sample, in the shape of the unreduced loss and without a gradient.

    `logprob`: the log-probability of the target, in nats; for class probabilities, its mean under them. `lse`: the
    log-sum-exp of the scores. `entropy`: that of their softmax, in nats. `rank`: how many classes score higher than the
    target, of class probabilities than the most probable one. A sample that does not count has 0, 0, 0 and the number
    of classes.
    """

    logprob: Tensor
    lse: Tensor
    entropy: Tensor
    rank: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether no class scores higher than the target; False where the sample does not count."""
        return self.rank == 0

    def top(self, k: int) -> Tensor:
        """Whether fewer than `k` classes score higher than the target."""
        return self.rank < k


@dataclass(frozen=True)
class ScoreOptions:
    """The options of cross entropy between the input and the loss of a sample.

    Scores are softcap·tanh(logit_scale·x/softcap), or logit_scale·x; what counts gains z_loss·lse².
    """

    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    stats: bool = False

    @property
    def plain(self) -> bool:
        return self == PLAIN


PLAIN = ScoreOptions()
