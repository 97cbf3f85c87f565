"""Time: peers in one run, one sample of each in turn, in an order that is shuffled for every round.

Ratios of medians of such a run hold where absolute times drift: whatever slows the machine for a while slows every
peer.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from time import perf_counter

from benchmarks.peers import Peer

# A sample holds as many calls as take about this long, or one call where that takes longer.
SAMPLE_SECONDS = 0.002
LEAST_ROUNDS, MOST_ROUNDS = 7, 500
STAT = Path("/proc/stat")
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    lower_quartile: float
    upper_quartile: float
    samples: int
    calls_per_sample: int


def summarise(samples: Sequence[float], calls_per_sample: int = 1) -> Timing:
    ordered = sorted(samples)
    if len(ordered) > 1:
        lower, _, upper = statistics.quantiles(ordered, n=4, method="inclusive")
    else:
        lower = upper = ordered[0]
    return Timing(statistics.median(ordered), lower, upper, len(ordered), calls_per_sample)


def seconds_of(peer: Peer, calls: int) -> float:
    """Seconds per call of one sample."""
    step = peer.step
    if peer.restore is not None:
        peer.restore()
    begin = perf_counter()
    for _ in repeat(None, calls):
        step()
    return (perf_counter() - begin) / calls


def warm_up(peer: Peer) -> float:
    """At least three calls, and of short calls enough to settle caches and clocks. Returns seconds per call."""
    begin = perf_counter()
    durations = [seconds_of(peer, 1) for _ in range(3)]
    while perf_counter() - begin < 0.02:
        durations.append(seconds_of(peer, 10 if peer.restore is None else 1))
    return statistics.median(durations)


def interleave(peers: Sequence[Peer], seconds: float, seed: int) -> dict[str, Timing]:
    """Times all peers for about `seconds`, though never fewer than seven rounds."""
    estimates = {peer.name: warm_up(peer) for peer in peers}
    calls = max(1, round(SAMPLE_SECONDS / min(estimates.values())))
    if any(peer.restore is not None for peer in peers):
        # The data is put back before a sample, and only the first call of a sample would find it.
        calls = 1
    round_seconds = calls * sum(estimates.values())
    rounds = min(max(int(seconds / round_seconds), LEAST_ROUNDS), MOST_ROUNDS)
    for peer in peers:
        peer.loss_seconds.clear()
    samples: dict[str, list[float]] = {peer.name: [] for peer in peers}
    order = list(peers)
    shuffler = random.Random(seed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffler.shuffle(order)
            for peer in order:
                samples[peer.name].append(seconds_of(peer, calls))
    finally:
        if collecting:
            gc.enable()
    return {name: summarise(values, calls) for name, values in samples.items()}


class OtherWork:
    """How many cores other processes keep busy from now on.

    A second process does more than slow things down: a parallel region waits until the scheduler lets its last thread
    run, so that a call of 20 microseconds takes a whole time slice, 8 ms. Nothing of that is the loss's.
    """

    def __init__(self) -> None:
        self.begin = self.read()
        self.begin_wall = perf_counter()

    @staticmethod
    def read() -> float | None:
        """CPU seconds since boot of everything but this process; None where the system has no /proc/stat."""
        try:
            fields = STAT.read_text().partition("\n")[0].split()[1:]
        except OSError:
            return None
        # user, nice, system, irq, softirq, steal; left out are idle and iowait.
        ticks = sum(int(fields[index]) for index in (0, 1, 2, 5, 6, 7))
        own = os.times()
        return ticks / os.sysconf("SC_CLK_TCK") - own.user - own.system

    def cores(self) -> float | None:
        end = self.read()
        if self.begin is None or end is None:
            return None
        return max((end - self.begin) / (perf_counter() - self.begin_wall), 0.0)


def import_times(count: int) -> list[float]:
    """Seconds of `import losskit` in new processes that have imported torch."""
    code = "import time, torch; begin = time.perf_counter(); import losskit; print(time.perf_counter() - begin)"
    return [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(count)
    ]


def build_times(_: int) -> list[float]:
    """Seconds of one `pip install .` in an isolated build, into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        # A build folder of its own: what an earlier build left in the source tree would shorten this one.
        build_folder = f"--config-settings=build-dir={folder}/build"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{folder}/installed"]
        command += [build_folder, str(REPOSITORY)]
        begin = perf_counter()
        subprocess.run(command, check=True, capture_output=True, text=True)
        return [perf_counter() - begin]


PACKAGE_TIMES: dict[str, Callable[[int], list[float]]] = {"import": import_times, "build": build_times}
