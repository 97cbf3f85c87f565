"""How long the collectives of each scheme take, from latency and bandwidth: `python -m benchmarks.collectives`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from losskit.distributed.exchange import GATHERED_BYTES

RANKS = (2, 8, 64, 512, 4096)


@dataclass(frozen=True)
class Network:
    """What a message costs: a latency for each step, and a time for each byte that a rank takes in."""

    latency: float = 5e-6
    bytes_per_second: float = 50e9

    def all_gather(self, ranks: int, bytes_of_a_rank: float) -> float:
        """Recursive doubling: log2 W steps, in which a rank takes in what the W − 1 others have."""
        return math.log2(ranks) * self.latency + (ranks - 1) * bytes_of_a_rank / self.bytes_per_second

    def all_reduce(self, ranks: int, size: float) -> float:
        """A reduce-scatter and an all-gather: 2·log2 W steps, in which a rank takes in 2·(W − 1)/W of the size."""
        return 2 * (math.log2(ranks) * self.latency + (ranks - 1) / ranks * size / self.bytes_per_second)


@dataclass(frozen=True)
class Step:
    """What a step computes the loss of."""

    rows: int = 8192
    classes: int = 131072
    # Maximum, sum and the target's score.
    numbers: int = 3
    float_bytes: int = 4


NETWORK, STEP = Network(), Step()
SCHEMES: dict[str, Callable[[int], float]] = {
    "`GlobalMean`: one number, all-reduced": lambda ranks: NETWORK.all_reduce(ranks, 8),
    "split vocabulary: all scores gathered": lambda ranks: NETWORK.all_gather(
        ranks, STEP.rows * STEP.classes / ranks * STEP.float_bytes
    ),
    "split vocabulary: three all-reduces": lambda ranks: 3 * NETWORK.all_reduce(ranks, STEP.rows * STEP.float_bytes),
    "split vocabulary: two all-reduces": lambda ranks: (
        NETWORK.all_reduce(ranks, 2 * STEP.rows * STEP.float_bytes)
        + NETWORK.all_reduce(ranks, (STEP.numbers - 2) * STEP.rows * STEP.float_bytes)
    ),
    "split vocabulary: one all-gather": lambda ranks: NETWORK.all_gather(
        ranks, STEP.numbers * STEP.rows * STEP.float_bytes
    ),
}


def chosen(ranks: int) -> float:
    """What vocab_parallel_cross_entropy does."""
    gathered = ranks * STEP.numbers * STEP.rows * STEP.float_bytes <= GATHERED_BYTES
    return SCHEMES[f"split vocabulary: {'one all-gather' if gathered else 'two all-reduces'}"](ranks)


SCHEMES["`vocab_parallel_cross_entropy`"] = chosen


def assumptions() -> str:
    return (
        f"{NETWORK.latency * 1e6:g} µs for each message, {NETWORK.bytes_per_second / 1e9:g} GB/s into each rank, "
        f"all-gathers in log₂ W messages and all-reduces in 2·log₂ W; {STEP.rows:,} rows over {STEP.classes:,} "
        "classes, scores and numbers in float32. Nothing overlaps, nothing else uses the network, and arithmetic takes "
        "no time."
    )


def markdown() -> str:
    """The table, in microseconds."""
    lines = [
        "| time of a step in µs, on ranks | " + " | ".join(f"{ranks:,}" for ranks in RANKS) + " |",
        "|---|" + "---|" * len(RANKS),
    ]
    for name, seconds in SCHEMES.items():
        lines.append(f"| {name} | " + " | ".join(f"{seconds(ranks) * 1e6:,.0f}" for ranks in RANKS) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(assumptions())
    print(markdown())
