"""What `return_stats` gives of a vocabulary in shards."""

from typing import NamedTuple

from torch import Tensor

from losskit.errors import LosskitTypeError


class ShardStats(NamedTuple):
    """What one collective tells of each sample, in the shape of the unreduced loss and without a gradient.

    `logprob`, `lse`, `entropy`, `correct`: those of `losskit.ClassStats`. A sample that does not count has 0, 0, 0 and
    False.
    """

    logprob: Tensor
    lse: Tensor
    entropy: Tensor
    correct: Tensor


def check_return_stats(function: str, return_stats: object) -> None:
    if not isinstance(return_stats, bool) and return_stats != "rank":
        raise LosskitTypeError(f"{function}: return_stats must be a bool or 'rank', got {return_stats!r}.")
