"""Cross entropy over a vocabulary in two shards, one collective against three: `python -m benchmarks.vocabulary`.

Two processes of a Gloo group on this machine, one thread each. The values and gradients of the two are compared with
each other before anything is timed, and the two take turns. First the whole call, forward and backward, then the
collectives alone.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes

from losskit.distributed import vocab_parallel_cross_entropy

RANKS = 2
# Rows and classes of a rank: what is sent is 3 numbers for each row.
SIZES = ((16, 64), (256, 4096), (2048, 4096))
ROUNDS = 15


def three_all_reduces(logits: Tensor, target: Tensor, vocab_start: int) -> Tensor:
    """The maximum, the target's score and the sum, an all-reduce each; the shard through plain torch operations."""
    return _ThreeAllReduces.apply(logits, target, vocab_start).mean()  # type: ignore[no-untyped-call, no-any-return]  # apply has no annotations


class _ThreeAllReduces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, vocab_start):  # type: ignore[no-untyped-def]  # torch has no type for the context
        highest = logits.amax(1)
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
        own = target - vocab_start
        here = (own >= 0) & (own < logits.shape[1])
        own = own.masked_fill(~here, 0)
        shifted = logits - highest.unsqueeze(1)
        score = shifted.gather(1, own.unsqueeze(1)).squeeze(1).masked_fill(~here, 0)
        distributed.all_reduce(score)
        softmax = shifted.exp_()
        total = softmax.sum(1)
        distributed.all_reduce(total)
        ctx.save_for_backward(softmax.div_(total.unsqueeze(1)), own, here)
        return total.log() - score

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]  # as above
        softmax, own, here = ctx.saved_tensors
        grad = softmax * grad_output.unsqueeze(1)
        grad.scatter_add_(1, own.unsqueeze(1), -(here * grad_output).unsqueeze(1))
        return grad, None, None


def _timed(call: Callable[[], object]) -> float:
    distributed.barrier()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def one_collective(logits: Tensor, target: Tensor, vocab_start: int) -> Tensor:
    loss: Tensor = vocab_parallel_cross_entropy(logits, target, vocab_start=vocab_start)
    return loss


def all_gather_into(out: Tensor, tensor: Tensor) -> None:
    # Renamed in PyTorch 2.13.
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    gather(out, tensor)


def _calls(logits: Tensor, target: Tensor, vocab_start: int) -> dict[str, Callable[[], object]]:
    numbers = torch.zeros(len(target))
    packed, gathered = numbers.repeat(3), numbers.repeat(3 * RANKS)
    return {
        "one": lambda: torch.autograd.grad(one_collective(logits, target, vocab_start), logits),
        "three": lambda: torch.autograd.grad(three_all_reduces(logits, target, vocab_start), logits),
        "one alone": lambda: all_gather_into(gathered, packed),
        "three alone": lambda: [distributed.all_reduce(numbers) for _ in range(3)],
    }


def _measured(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=Path(folder, "store").as_uri(), rank=rank, world_size=RANKS)
    for rows, classes in SIZES:
        generator = torch.Generator().manual_seed(rank)
        logits = torch.randn(rows, classes, generator=generator).requires_grad_()
        target = torch.randint(RANKS * classes, (rows,), generator=torch.Generator().manual_seed(9))
        losses = [loss_of(logits, target, rank * classes) for loss_of in (one_collective, three_all_reduces)]
        grads = [torch.autograd.grad(loss, logits)[0] for loss in losses]
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(grads[0], grads[1])
        calls = _calls(logits, target, rank * classes)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(_timed(call))
        if rank == 0:
            medians = {name: 1e3 * statistics.median(found) for name, found in times.items()}
            print(
                f"{rows:5} rows × {RANKS} × {classes:5} classes: one collective {medians['one']:8.3f} ms, three "
                f"{medians['three']:8.3f} ms, {medians['three'] / medians['one']:.2f} times; alone "
                f"{medians['one alone']:.3f} and {medians['three alone']:.3f} ms, "
                f"{medians['three alone'] / medians['one alone']:.2f} times",
                flush=True,
            )
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as place:
        start_processes(_measured, (place,), nprocs=RANKS, start_method="spawn")
