"""The processes of one training under torchrun, and what they tell each other.

Each rank draws the same global batches and takes its part of each. Gloo carries gradients on the CPU and NCCL on GPUs;
all else goes over Gloo, which notices at once where a rank has ended.
"""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from losskit.errors import LosskitError, LosskitRuntimeError, LosskitValueError

__all__ = ["ALONE", "AnotherRankError", "Ranks", "by_torchrun", "is_first", "joined"]

# How long a rank waits for one that is alive and does not answer. Longer than any step, and than writing a checkpoint.
TIMEOUT = timedelta(minutes=5)

T = TypeVar("T")


class AnotherRankError(LosskitRuntimeError):
    """Another rank cannot go on, and says why."""


class Ranks:
    """This process and the others. Alone, it is rank 0 of 1, and nothing is sent."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def device(self, name: str) -> torch.device:
        """`name`, or with several ranks and `cuda` the GPU of this one."""
        device = torch.device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise LosskitValueError(
                f"train: --device {name} is one GPU for {self.size} ranks; --device cuda gives each its own."
            )
        device = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(device)
        return device

    def part(self, rows: Tensor) -> Tensor:
        """This rank's rows: as many as the others', or one more, or none where there are fewer rows than ranks."""
        return rows.tensor_split(self.size)[self.rank]

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` with gradients that are the mean over all ranks."""
        if self.size == 1:
            return module
        with self.exchange():
            wrapped: nn.Module = nn.parallel.DistributedDataParallel(module)
        return wrapped

    def sum(self, *values: float) -> list[float]:
        """The sums of each of these numbers over all ranks, the same on all of them."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        with self.exchange():
            distributed.all_reduce(numbers)
        summed: list[float] = numbers.tolist()
        return summed

    def on_first(self, action: Callable[[], T]) -> T:
        """What `action` gives on rank 0, which alone does it. Where it fails there, it fails on every rank."""
        if self.size == 1:
            return action()
        answer: list[Any] = [None]
        failure: LosskitError | None = None
        if self.rank == 0:
            try:
                answer = [(action(), None)]
            except LosskitError as error:
                failure = error
                answer = [(None, str(error))]
        with self.exchange():
            distributed.broadcast_object_list(answer, src=0)
        if failure is not None:
            raise failure
        result, reason = answer[0]
        if reason is not None:
            raise AnotherRankError(_failed(0, reason))
        given: T = result
        return given

    def on_each(self, action: Callable[[], T]) -> T:
        """What `action` gives on this rank. Where it fails on any, it fails on every one."""
        if self.size == 1:
            return action()
        failure: LosskitError | None = None
        result: Any = None
        try:
            result = action()
        except LosskitError as error:
            failure = error
        reasons: list[str | None] = [None] * self.size
        with self.exchange():
            distributed.all_gather_object(reasons, None if failure is None else str(failure))
        for rank, reason in enumerate(reasons):
            if reason is not None and rank == self.rank and failure is not None:
                raise failure
            if reason is not None:
                raise AnotherRankError(_failed(rank, reason))
        given: T = result
        return given

    def same(self, error: LosskitError) -> LosskitError:
        """An error that every rank meets at the same time: rank 0 tells it for all."""
        return error if self.rank == 0 else AnotherRankError(_failed(0, str(error)))

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """Within it, an error of torch.distributed becomes a sentence."""
        try:
            yield
        except (LosskitError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            if self.size == 1:
                raise
            raise LosskitRuntimeError(
                f"train: rank {self.rank} of {self.size} cannot go on without the others ({_reason(error)}): one of "
                "them has ended or does not answer; the same command goes on after the last saved epoch."
            ) from error


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, or those of a process group that is there already; else this process alone."""
    if not distributed.is_available():
        yield ALONE
    elif distributed.is_initialized():
        if "gloo" not in distributed.get_backend_config():
            raise LosskitRuntimeError(
                "train: the process group that is there cannot send from the CPU; "
                "make it with init_process_group('cpu:gloo,cuda:nccl'), or leave making it to train."
            )
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    elif not by_torchrun():
        yield ALONE
    else:
        # Without a GPU the device is refused later, in a sentence of its own.
        on_gpu = device.partition(":")[0] == "cuda" and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        with Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])).exchange():
            distributed.init_process_group(backend, timeout=TIMEOUT)
        ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
        with _told_to_end(ranks):
            yield ranks
        # Only after success: where a rank has ended, leaving the group together would wait for it.
        distributed.destroy_process_group()


def by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def is_first() -> bool:
    """Whether this process is the one that speaks for all."""
    return not by_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def _told_to_end(ranks: Ranks) -> Iterator[None]:
    """Within it, SIGTERM is an error: torchrun ends the other ranks with it when one has ended."""
    # Python lets only the main thread ask for signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(number: int, frame: FrameType | None) -> None:
        raise LosskitRuntimeError(
            f"train: rank {ranks.rank} of {ranks.size} was told to end (SIGTERM), as torchrun does when another rank "
            "has ended; the same command goes on after the last saved epoch."
        )

    def told_while_failing(number: int, frame: FrameType | None) -> None:
        # torchrun may notice what went wrong before this rank has said it, which takes no second.
        signal.signal(signal.SIGTERM, before)
        later = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
        later.daemon = True
        later.start()

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, told_while_failing)
        raise
    signal.signal(signal.SIGTERM, before)


def _failed(rank: int, reason: str) -> str:
    return f"train: rank {rank} cannot go on: {reason}"


def _reason(error: BaseException) -> str:
    """The first sentence of an error, without the place in Gloo's sources that comes before it."""
    line = re.sub(r"^\[[^]]*\] *", "", str(error).strip()).partition("\n")[0]
    return line.partition(". ")[0].rstrip(".") or type(error).__name__
