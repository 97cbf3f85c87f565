"""Exact losses on `torch.distributed`: the divisor of all ranks and micro-batches, and a vocabulary in shards."""

from losskit.distributed.count import PendingCount, global_count
from losskit.distributed.cross_entropy import vocab_parallel_cross_entropy
from losskit.distributed.linear_cross_entropy import vocab_parallel_linear_cross_entropy
from losskit.distributed.mean import GlobalMean

__all__ = [
    "GlobalMean",
    "PendingCount",
    "global_count",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy",
]
