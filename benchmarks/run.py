"""Runs one workload: check, then time, then memory, then the targets."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from benchmarks import memory
from benchmarks.check import Verdict, check
from benchmarks.measure import PACKAGE_TIMES, OtherWork, Timing, interleave, summarise
from benchmarks.peers import COMPILED, LIMITS, OURS, Peer, make_peer
from benchmarks.workloads import PackageWorkload, Target, Workload

# A system's own housekeeping stays below it.
TOLERATED_CORES = 0.2
TIME_FIGURES = ("speed_up", "time_ratio", "loss_share")


@dataclass(frozen=True)
class Settings:
    seconds: float = 5.0
    seed: int = 0
    memory: bool = True
    compile: bool = True
    small: bool = False
    """Takes every workload in its small shape: for tests, as the figures say nothing about speed."""


@dataclass
class PeerResult:
    name: str
    timing: Timing | None = None
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error against float64 by part."""
    extra_peak: float | None = None
    """In multiples of the loss's input; where the layer is inside the loss, without the gradients and in multiples of
    the workspace."""
    loss_share: float | None = None
    dispatch: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    target: Target
    value: float | None
    """None where it was not measured in this run."""
    disturbed: bool = False
    """The value is a time that was taken while other processes ran: neither reached nor missed."""

    @property
    def reached(self) -> bool | None:
        if self.value is None or self.disturbed:
            return None
        return self.value >= self.target.limit if self.target.at_least else self.value <= self.target.limit


@dataclass
class WorkloadResult:
    name: str
    description: str
    status: Literal["measured", "wrong", "failed"] = "measured"
    """wrong: a value or gradient did not pass, and there are no times. failed: it could not be run."""
    complaints: list[str] = field(default_factory=list)
    peers: dict[str, PeerResult] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    other_work: float | None = None
    """Cores that other processes kept busy during the timing; None where it is not known."""

    def ratio(self, numerator: str, denominator: str) -> float | None:
        """Ratio of the median times of two peers."""
        upper, lower = self.peers.get(numerator), self.peers.get(denominator)
        if upper is None or lower is None or upper.timing is None or lower.timing is None:
            return None
        return upper.timing.median / lower.timing.median

    @property
    def disturbed(self) -> bool:
        return self.other_work is not None and self.other_work > TOLERATED_CORES

    def limit(self) -> str | None:
        return next((name for name in LIMITS if name in self.peers), None)


def quotient(numerator: float, denominator: float) -> float:
    if numerator == 0:
        return 0.0
    return numerator / denominator if denominator > 0 else math.inf


def figure(result: WorkloadResult, target: Target) -> float | None:
    if target.figure == "speed_up":
        return result.ratio(target.than, target.peer)
    if target.figure == "time_ratio":
        return result.ratio(target.peer, target.than)
    peer, than = result.peers.get(target.peer), result.peers.get(target.than)
    if peer is None:
        return None
    if target.figure == "seconds":
        return None if peer.timing is None else peer.timing.median
    if target.figure == "peak_memory":
        return peer.extra_peak
    if target.figure == "loss_share":
        return peer.loss_share
    if than is None or not peer.errors or not than.errors:
        return None
    if target.figure == "value_error_gain":
        return quotient(than.errors["value"], peer.errors["value"])
    return max(quotient(error, than.errors[part]) for part, error in peer.errors.items())


def outcomes(result: WorkloadResult, workload: Workload | PackageWorkload) -> list[Outcome]:
    return [
        Outcome(target, figure(result, target), disturbed=result.disturbed and target.figure in TIME_FIGURES)
        for target in workload.targets
    ]


def apply_gate(result: WorkloadResult, verdicts: dict[str, Verdict], peers: Sequence[Peer]) -> list[Peer]:
    """The peers that may be timed: none if losskit or eager is wrong; another peer that is wrong is only left out."""
    passed = []
    for peer in peers:
        entry = result.peers[peer.name]
        verdict = verdicts.get(peer.name, Verdict())
        entry.errors = verdict.errors
        if not verdict.complaints:
            passed.append(peer)
        elif peer.name in OURS or peer.name == "eager":
            result.status = "wrong"
            result.complaints += [f"{peer.name}: {complaint}" for complaint in verdict.complaints]
        else:
            entry.notes += [f"not timed: {complaint}" for complaint in verdict.complaints]
    return passed if result.status == "measured" else []


def measure_memory(workload: Workload, result: WorkloadResult, unit: int, gradients: int, seed: int) -> None:
    for entry in result.peers.values():
        if entry.timing is None or entry.name in LIMITS:
            continue
        try:
            extra = memory.in_new_process(workload, entry.name, seed, torch.get_num_threads())
        except memory.UnavailableError as error:
            entry.notes.append(f"no peak memory: {error}")
        else:
            entry.extra_peak = (extra - gradients) / unit


def run_workload(workload: Workload, settings: Settings) -> WorkloadResult:
    result = WorkloadResult(workload.name, workload.description)
    problem = workload.build(workload.small_shape if settings.small else workload.shape, settings.seed)
    unit, gradients = problem.loss_input_bytes, problem.gradient_bytes
    peers = []
    for name in workload.peers:
        if name in COMPILED and not settings.compile:
            continue
        result.peers[name] = entry = PeerResult(name)
        try:
            peer = make_peer(problem, name)
        # A call that cannot be prepared is reported like one that is wrong.
        except Exception as error:
            complaint = f"{name}: raised {type(error).__name__}: {error}"
            if name in OURS or name == "eager":
                result.status = "wrong"
                result.complaints.append(complaint)
            else:
                entry.notes.append(complaint)
            continue
        entry.dispatch = peer.dispatch
        peers.append(peer)
    if not any(peer.name == "eager" for peer in peers):
        return result
    timed = apply_gate(result, check(problem, peers), peers)
    if timed:
        other_work = OtherWork()
        timings = interleave(timed, settings.seconds, settings.seed)
        result.other_work = other_work.cores()
        for peer in timed:
            entry = result.peers[peer.name]
            entry.timing = timings[peer.name]
            if peer.loss_seconds:
                entry.loss_share = summarise(peer.loss_seconds).median / entry.timing.median
        # The processes below need the memory, and the parent's copies of the data would only be in their way.
        del peers, timed, problem, peer
        if settings.memory and workload.measure_memory and not settings.small:
            measure_memory(workload, result, unit, gradients, settings.seed)
        result.outcomes = outcomes(result, workload)
    return result


def run_package(workload: PackageWorkload, settings: Settings) -> WorkloadResult:
    result = WorkloadResult(workload.name, workload.description)
    try:
        samples = PACKAGE_TIMES[workload.kind](3 if settings.seconds < 2 else 7)
    except subprocess.CalledProcessError as error:
        result.status = "failed"
        said = [text.strip(" |") for text in (error.stderr or str(error)).splitlines() if text.strip()]
        # pip ends with hints; the reason is the exception above them.
        result.complaints.append(next((text for text in reversed(said) if "Error: " in text), said[-1]))
        return result
    result.peers["losskit"] = PeerResult("losskit", timing=summarise(samples))
    result.outcomes = outcomes(result, workload)
    return result


def run(workload: Workload | PackageWorkload, settings: Settings) -> WorkloadResult:
    if isinstance(workload, PackageWorkload):
        return run_package(workload, settings)
    return run_workload(workload, settings)
