"""Exact losses on `torch.distributed`: the divisor of all ranks and micro-batches, a vocabulary in shards, pairs."""

from losskit.distributed.contrastive import clip_loss, info_nce, siglip_loss
from losskit.distributed.count import PendingCount, global_count
from losskit.distributed.cross_entropy import vocab_parallel_cross_entropy
from losskit.distributed.linear_cross_entropy import vocab_parallel_linear_cross_entropy
from losskit.distributed.mean import GlobalMean
from losskit.distributed.stats import ShardStats

__all__ = [
    "GlobalMean",
    "PendingCount",
    "ShardStats",
    "clip_loss",
    "global_count",
    "info_nce",
    "siglip_loss",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy",
]
