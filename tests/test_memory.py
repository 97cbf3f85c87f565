"""The buffer pool, its settings, and how much memory a loss takes at its peak."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import output_of, run_python
from torch import Tensor

import losskit
import losskit.functional as L
from losskit.errors import LosskitTypeError, LosskitValueError
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason="the kernels are not built here")

KIB, MIB = 1 << 10, 1 << 20
HUGE = 2 * MIB
# Below this a buffer comes from the C library.
POOLED = 64 * KIB


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    gc.collect()
    limit = losskit.memory_stats()["limit_bytes"]
    losskit.empty_cache()
    yield
    losskit.set_cache_limit(limit)
    losskit.empty_cache()


def change(run: Callable[[], Any]) -> dict[str, int]:
    """What `run` adds to each of the statistics; its result is dropped."""
    before = losskit.memory_stats()
    run()
    after = losskit.memory_stats()
    return {name: after[name] - before[name] for name in after}


def problem(elements: int) -> tuple[Tensor, Tensor]:
    rows = 64
    torch.manual_seed(0)
    return torch.randn(rows, elements // rows, requires_grad=True), torch.randint(elements // rows, (rows,))


def train(input: Tensor, target: Tensor, **options: Any) -> None:
    input.grad = None
    L.cross_entropy(input, target, **options).sum().backward()


@needs_kernels
class TestPool:
    def test_a_buffer_of_each_size_is_mapped_once(self) -> None:
        input, target = problem(MIB // 4)
        first = change(lambda: train(input, target))
        assert (first["hits"], first["misses"]) == (0, 1)
        steady = change(lambda: [train(input, target) for _ in range(10)])
        assert (steady["hits"], steady["misses"]) == (10, 0)
        assert steady["active_bytes"] == 0

    def test_lengths_that_vary_by_less_than_a_quarter_share_a_buffer(self) -> None:
        train(*problem(MIB))
        losskit.empty_cache()
        train(*problem(MIB))
        varied = change(lambda: [train(*problem(size)) for size in (MIB, 15 * MIB // 16, 13 * MIB // 16 + 64)])
        assert varied["misses"] == 0
        assert varied["hits"] == 3
        assert change(lambda: train(*problem(MIB // 2)))["misses"] == 1

    def test_every_output_that_is_large_is_pooled(self) -> None:
        input, target = torch.randn(2, MIB // 2).requires_grad_().unbind()
        none = change(lambda: L.mse_loss(input, target, reduction="none").sum().backward())
        # The losses' buffer is free when the gradient's is asked for.
        assert (none["misses"], none["hits"]) == (1, 1)

    def test_active_bytes_are_those_of_living_tensors(self) -> None:
        elements = MIB
        input, target = problem(elements)
        stats = [losskit.memory_stats()["active_bytes"]]
        loss = L.cross_entropy(input, target)
        stats.append(losskit.memory_stats()["active_bytes"])
        loss.backward()
        del loss
        stats.append(losskit.memory_stats()["active_bytes"])
        input.grad = None
        stats.append(losskit.memory_stats()["active_bytes"])
        assert [value - stats[0] for value in stats] == [0, 4 * elements, 4 * elements, 0]
        assert losskit.memory_stats()["cached_bytes"] == 4 * elements
        assert losskit.memory_stats()["peak_active_bytes"] >= stats[1]

    @pytest.mark.parametrize("elements", [POOLED // 4 - 64, POOLED // 4, 3 * MIB // 4, MIB + 64])
    def test_sizes_are_rounded_to_whole_pages(self, elements: int) -> None:
        input, target = problem(elements)
        size = input.numel() * 4
        train(input, target)
        active = losskit.memory_stats()["active_bytes"]
        step = HUGE if size >= HUGE else 4 * KIB
        expected = 0 if size < POOLED else (size + step - 1) // step * step
        input.grad = None
        assert active - losskit.memory_stats()["active_bytes"] == expected

    def test_small_results_are_not_pooled(self) -> None:
        small = change(lambda: [train(*problem(POOLED // 4 - 64)) for _ in range(3)])
        assert set(small.values()) == {0}

    def test_empty_cache_gives_back_what_lies_idle(self) -> None:
        input, target = problem(MIB)
        train(input, target)
        kept = input.grad
        assert kept is not None
        before = kept.clone()
        train(*problem(MIB))
        assert losskit.memory_stats()["cached_bytes"] == 4 * MIB
        losskit.empty_cache()
        assert losskit.memory_stats()["cached_bytes"] == 0
        assert torch.equal(kept, before)
        assert change(lambda: train(*problem(MIB)))["misses"] == 1

    def test_limit_caps_what_lies_idle(self) -> None:
        losskit.set_cache_limit(6 * MIB)
        assert losskit.memory_stats()["limit_bytes"] == 6 * MIB
        inputs = [problem(MIB) for _ in range(3)]
        for input, target in inputs:
            train(input, target)
        assert losskit.memory_stats()["cached_bytes"] == 0
        for input, _ in inputs:
            input.grad = None
            assert losskit.memory_stats()["cached_bytes"] == 4 * MIB
        # Two of 2 MiB and the last of 4 MiB do not fit: the ones that waited longest go.
        losskit.set_cache_limit(3 * MIB)
        assert losskit.memory_stats()["cached_bytes"] == 0

    def test_limit_of_zero_keeps_nothing(self) -> None:
        losskit.set_cache_limit(0)
        none_kept = change(lambda: [train(*problem(MIB)) for _ in range(3)])
        assert (none_kept["misses"], none_kept["hits"], none_kept["cached_bytes"]) == (3, 0, 0)

    def test_longest_idle_goes_first(self) -> None:
        losskit.set_cache_limit(6 * MIB)
        old, new = problem(MIB), problem(MIB // 2)
        for one in (old, new):
            train(*one)
        old[0].grad = None
        new[0].grad = None
        assert losskit.memory_stats()["cached_bytes"] == 6 * MIB
        losskit.set_cache_limit(5 * MIB)
        assert losskit.memory_stats()["cached_bytes"] == 2 * MIB
        assert change(lambda: train(*problem(MIB // 2)))["hits"] == 1

    def test_pool_tensors_behave_as_tensors(self) -> None:
        input, target = problem(MIB)
        train(input, target)
        grad = input.grad
        assert grad is not None
        doubled = grad.clone().add_(grad)
        optimizer = torch.optim.SGD([input], lr=0.1, momentum=0.9)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        assert int(grad.count_nonzero()) == 0
        train(input, target)
        optimizer.step()
        assert torch.equal(doubled / 2, doubled.div(2))
        assert grad.numpy().shape == tuple(grad.shape)

    def test_a_view_keeps_the_buffer(self) -> None:
        input, target = problem(MIB)
        before = losskit.memory_stats()["active_bytes"]
        train(input, target)
        assert input.grad is not None
        row = input.grad[3]
        expected = row.clone()
        input.grad = None
        assert losskit.memory_stats()["active_bytes"] == before + 4 * MIB
        train(*problem(MIB))
        assert torch.equal(row, expected)
        del row
        assert losskit.memory_stats()["active_bytes"] == before

    def test_an_array_keeps_the_buffer(self) -> None:
        input, target = problem(MIB)
        before = losskit.memory_stats()["active_bytes"]
        train(input, target)
        assert input.grad is not None
        array = input.grad.numpy()
        expected = array.copy()
        input.grad = None
        train(*problem(MIB))
        losskit.empty_cache()
        assert (array == expected).all()
        del array
        assert losskit.memory_stats()["active_bytes"] == before

    def test_an_error_in_the_middle_leaves_nothing_behind(self) -> None:
        input, target = problem(MIB)
        before = losskit.memory_stats()["active_bytes"]
        with pytest.raises(IndexError):
            train(input, target + 1_000_000)
        assert losskit.memory_stats()["active_bytes"] == before


SMAPS = Path("/proc/self/smaps")
IDLE = """
import re, torch
import losskit.functional as L

def offered():
    with open("/proc/self/smaps") as file:
        return sum(int(kilobytes) for kilobytes in re.findall(r"^LazyFree: +(\\d+) kB", file.read(), re.M))

def use(elements):
    input = torch.randn(elements, requires_grad=True)
    L.mse_loss(input, torch.zeros(elements)).backward()

use(4 << 20)
print(offered())
use(4 << 20)
print(offered())
for _ in range(20):
    use(100_000)
print(offered())
use(4 << 20)
print(offered())
"""


@needs_kernels
@pytest.mark.skipif(not SMAPS.exists() or "LazyFree" not in SMAPS.read_text(), reason="this system does not tell")
def test_pages_that_were_idle_for_long_are_offered_to_the_system() -> None:
    """Not those of a loop, which takes the same buffer again at its next step."""
    first, loop, long_idle, again = map(int, output_of(IDLE).split())
    assert (first, loop, again) == (0, 0, 0)
    # Less where the system has taken some already.
    assert 0 < long_idle <= 16 * KIB


def test_statistics_are_whole_numbers() -> None:
    stats = losskit.memory_stats()
    assert sorted(stats) == ["active_bytes", "cached_bytes", "hits", "limit_bytes", "misses", "peak_active_bytes"]
    assert all(type(value) is int and value >= 0 for value in stats.values())
    assert stats["peak_active_bytes"] >= stats["active_bytes"]


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (-1, LosskitValueError, "set_cache_limit: limit must be 0 or more bytes, got -1."),
        (2**63, LosskitValueError, f"set_cache_limit: limit must be 0 or more bytes, got {2**63}."),
        (1.5, LosskitTypeError, "set_cache_limit: limit must be an int, got float."),
        ("1G", LosskitTypeError, "set_cache_limit: limit must be an int, got str."),
        (None, LosskitTypeError, "set_cache_limit: limit must be an int, got NoneType."),
        (True, LosskitTypeError, "set_cache_limit: limit must be an int, got bool."),
    ],
)
def test_bad_limit(limit: Any, error: type[Exception], message: str) -> None:
    before = losskit.memory_stats()["limit_bytes"]
    with pytest.raises(error) as raised:
        losskit.set_cache_limit(limit)
    assert str(raised.value) == message
    assert losskit.memory_stats()["limit_bytes"] == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="page faults are read from /proc")
def test_tune_malloc_keeps_freed_blocks() -> None:
    """A process of its own, since it cannot be undone. Freed blocks are used again without new pages."""
    code = """
        import resource, sys, torch, losskit

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                torch.zeros(4 << 20)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        first = faults()
        losskit.tune_malloc()
        losskit.tune_malloc()
        faults()
        print(first, faults())
    """
    # Ordinary pages, so that there is something to count.
    done = run_python(code, THP_MEM_ALLOC_ENABLE="0")
    if "this C library has no mallopt" in done.stderr:
        pytest.skip("this C library is not glibc")
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < before / 10


PEAK = """
    import json, os, sys, torch
    from losskit import functional as L

    torch.set_num_threads(2)
    rows, classes = 2048, 8192
    weight = torch.empty(classes).fill_(0.5).requires_grad_()
    target = torch.arange(rows) % classes
    options = json.loads(os.environ["OPTIONS"])

    def now(field):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))

    # Everything that is set up once.
    small = torch.randn(64, 1024, requires_grad=True)
    L.cross_entropy(small + 0, target[:64], **options).backward()
    leaf = torch.empty(rows, classes).fill_(0.25).requires_grad_()
    logits = leaf.view(rows, classes) if not options else None
    if options:
        # The output of a layer, made without another buffer: the gradient by `leaf` is dropped as it comes.
        class Layer(torch.autograd.Function):
            @staticmethod
            def forward(ctx, start, out):
                ctx.mark_dirty(out)
                return out
            @staticmethod
            def backward(ctx, grad):
                return grad.sum(), None
        logits = Layer.apply(torch.zeros((), requires_grad=True), leaf.detach())
    size = leaf.numel() * leaf.element_size()
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    start = now("VmRSS")
    L.cross_entropy(logits, target, **options).backward()
    print((now("VmHWM") - start) / size)
"""


@needs_kernels
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("options", "most"), [({}, 1.1), ({"inplace_backward": True}, 0.1)], ids=["buffer", "in place"]
)
def test_peak_memory_in_units_of_the_logits(options: dict[str, bool], most: float) -> None:
    ratio = float(output_of(PEAK, OPTIONS=json.dumps(options)))
    assert ratio <= most
    # The measurement sees what it is there to see: a gradient buffer is a whole one.
    assert ratio > 0.9 or options
