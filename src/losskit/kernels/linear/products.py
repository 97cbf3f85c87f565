"""The three matrix products of a linear layer, and which library multiplies.

PyTorch hands float32 products to MKL, or whatever BLAS it was built with. Its oneDNN can be twice as fast, or four
times slower, on one and the same matrices: it depends on the processor. Both are timed once where it is worth it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from losskit.errors import BackendError

# Floating-point operations from which a call is worth the timing, which takes some tenths of a second.
_WORTH_TIMING = 2e11
# oneDNN gives a new tensor each time. Below this size the C library keeps its memory, and nothing has to be zeroed.
_ONEDNN_BYTES = 1 << 24


@dataclass(frozen=True)
class Products:
    """How to multiply."""

    # "torch" or "onednn".
    route: str
    # What is multiplied in and added up in.
    dtype: torch.dtype
    # Whether the operands are multiplied in their own dtype, and what comes out is added up in the one above.
    narrow: bool
    # How many bytes of the layer may be copied at a time.
    copied: int

    def scores(self, x: Tensor, linear_weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
        """x·Wᵀ + b."""
        if self.narrow:
            out.copy_(x @ linear_weight.t())
        else:
            for classes, layer in self._parts(linear_weight, len(x)):
                if self.route == "onednn":
                    out[:, classes] = _onednn(x, layer)
                else:
                    torch.mm(x, layer.t(), out=out[:, classes])
        return out if bias is None else out.add_(bias)

    def by_input(self, by_scores: Tensor, linear_weight: Tensor, out: Tensor) -> None:
        """out ← G·W."""
        if self.narrow:
            out.copy_(by_scores.to(linear_weight.dtype) @ linear_weight)
            return
        for classes, layer in self._parts(linear_weight, len(by_scores)):
            columns, first = by_scores[:, classes], classes.start == 0
            if self.route == "onednn":
                part = _onednn(columns, layer.t())
                # Not an assignment and then a sum: the memory of `out` has not been written to.
                torch.add(part, 0 if first else out, out=out)
            else:
                torch.addmm(out, columns, layer, beta=0 if first else 1, out=out)

    def by_layer(self, by_scores: Tensor, x: Tensor, out: Tensor, first: bool) -> None:
        """out ← out + Gᵀ·x, without the first term where nothing stands there yet."""
        if self.narrow:
            part = by_scores.to(x.dtype).t() @ x
            out.copy_(part) if first else out.add_(part)
        elif self.route == "onednn":
            step = max(1, _ONEDNN_BYTES // (4 * max(1, x.shape[1])))
            for begin in range(0, len(out), step):
                part = _onednn(by_scores[:, begin : begin + step].t(), x.t())
                torch.add(part, 0 if first else out[begin : begin + step], out=out[begin : begin + step])
        else:
            torch.addmm(out, by_scores.t(), x, beta=0 if first else 1, out=out)

    def _parts(self, linear_weight: Tensor, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """The classes that are multiplied at a time, with their part of the layer in `dtype`."""
        classes, features = linear_weight.shape
        step = classes
        if linear_weight.dtype != self.dtype:
            step = max(1, self.copied // (self.dtype.itemsize * features))
        if self.route == "onednn":
            step = min(step, max(1, _ONEDNN_BYTES // (4 * rows)))
        for begin in range(0, classes, step):
            part = slice(begin, min(begin + step, classes))
            yield part, linear_weight[part].to(self.dtype)


def products_for(input: Tensor, linear_weight: Tensor, rows: int, narrow: bool, workspace: int) -> Products:
    """How to multiply `rows` rows of this input with this layer, forward and backward."""
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    route = "torch"
    if dtype == torch.float32 and input.device.type == "cpu" and not narrow:
        route = _chosen(6 * rows * linear_weight.numel())
    # A sixteenth of what the scores take, and not so much that it leaves the cache.
    return Products(route, dtype, narrow, max(1 << 16, min(1 << 24, workspace // 16)))


def _chosen(operations: float) -> str:
    wish = os.environ.get("LOSSKIT_GEMM", "auto")
    if wish == "auto":
        # At a lower precision the two would no longer give the same digits.
        worth = operations >= _WORTH_TIMING and torch.get_float32_matmul_precision() == "highest"
        return _faster(torch.get_num_threads()) if worth else "torch"
    if wish == "torch":
        return "torch"
    if wish == "onednn":
        if not _has_onednn():
            raise BackendError("LOSSKIT_GEMM='onednn': this PyTorch has no oneDNN product that can be called.")
        return "onednn"
    raise BackendError(f"LOSSKIT_GEMM must be 'auto', 'torch' or 'onednn', got {wish!r}.")


def _onednn(x: Tensor, layer: Tensor) -> Tensor:
    """x·layerᵀ. The operator is none that PyTorch promises: `_has_onednn` has tried it."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer, None, "none", [], "")
    return product


@cache
def _has_onednn() -> bool:
    left, right = torch.arange(12.0).reshape(3, 4), torch.arange(20.0).reshape(5, 4)
    try:
        return torch.equal(_onednn(left, right), left @ right.t())
    # An operator that is missing, or takes other arguments in this version, says so with exceptions of many types.
    except Exception:
        return False


@cache
def _faster(threads: int) -> str:
    """The route that takes less time for the three products, with this number of threads."""
    if not _has_onednn():
        return "torch"
    x, layer = torch.rand(256, 512), torch.rand(2048, 512)
    scores, by_input, by_layer = torch.empty(256, 2048), torch.empty(256, 512), torch.empty(2048, 512)

    def step(route: str) -> Callable[[], Any]:
        products = Products(route, torch.float32, False, 1 << 24)

        def run() -> None:
            products.scores(x, layer, None, scores)
            products.by_input(scores, layer, by_input)
            products.by_layer(scores, x, by_layer, True)

        return run

    steps = {route: step(route) for route in ("torch", "onednn")}
    # Seconds that pass, and seconds of the processor: other processes make the first longer, idle threads the second
    # shorter.
    clocks = (perf_counter, process_time)
    best = {route: [float("inf"), float("inf")] for route in steps}
    for _ in range(4):
        for route, run in steps.items():
            begin = [clock() for clock in clocks]
            run()
            best[route] = [
                min(least, clock() - start) for least, clock, start in zip(best[route], clocks, begin, strict=True)
            ]
    # PyTorch's own way, whose sums are more exact here, unless the other is better by far more than such times vary.
    faster = [ours < 0.75 * theirs for ours, theirs in zip(best["onednn"], best["torch"], strict=True)]
    return "onednn" if all(faster) else "torch"
