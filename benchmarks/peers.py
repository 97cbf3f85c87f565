"""Turns a problem into the callables that are checked and timed, one per peer.

The timed call is a training step's: the leaf's `.grad` is set to None, as `zero_grad(set_to_none=True)` does, then
forward and backward through the public function. Each peer has leaves of its own over the shared data, so that
releasing the gradient of its last call is billed to itself and not to whoever comes next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import losskit
from benchmarks.workloads import Loss, Problem
from losskit.kernels.linear import products_for

OURS = ("losskit", "inplace", "float32_out", "compiled", "watched")
# eager, and losskit in a graph of its own.
COMPILED = ("compile", "compiled")
LIMITS = ("copy", "products")

OPTIONS_OF: Mapping[str, Mapping[str, Any]] = {
    "losskit": {},
    "inplace": {"inplace_backward": True},
    "float32_out": {"out_dtype": torch.float32},
}


@dataclass(frozen=True)
class Peer:
    name: str
    step: Callable[[], Tensor | None]
    """What is timed. Returns the loss; a limit returns None."""
    forward: Callable[[], Tensor] | None = None
    """The step without backward, for the check with another grad_output. A limit has none."""
    leaves: Mapping[str, Tensor] = field(default_factory=dict)
    restore: Callable[[], None] | None = None
    """Puts the data back before each call, outside the timing, where the call overwrites its input."""
    loss_seconds: list[float] = field(default_factory=list)
    """One entry per call where the loss is a part of a larger step."""
    dispatch: str | None = None
    """The backend that losskit names for this call, with its reason."""


class TimedInside:
    """A loss on the output of another operation that notes the time spent in the loss itself.

    Forward is the time around the loss's call. Backward runs from the hook on the loss, which autograd calls before
    the loss's own node, to the hook on the loss's input, which it calls when that gradient is complete and before
    the matrix products of backward begin. Both hooks run on the thread that called `backward`, and the CPU computes
    synchronously, so the two intervals hold the loss's work, its page faults included, and nothing of the products.
    Not included is the release of its buffers after the last use. The difference "step minus products alone" would
    hold that too, but it is a difference of two times of some 500 ms and drowns a share of 3 % in their noise.
    """

    def __init__(self, loss: Loss, produce: Loss) -> None:
        self.loss = loss
        self.produce = produce
        self.seconds: list[float] = []

    def __call__(self, *tensors: Tensor, inputs: int, **options: Any) -> Tensor:
        made = self.produce(*tensors[:inputs])
        begin = perf_counter()
        loss = self.loss(made, *tensors[inputs:], **options)
        forward = perf_counter() - begin
        if not loss.requires_grad:
            return loss
        begin_backward = 0.0

        def before_loss(_: Tensor) -> None:
            nonlocal begin_backward
            begin_backward = perf_counter()

        def after_loss(_: Tensor) -> None:
            self.seconds.append(forward + perf_counter() - begin_backward)

        loss.register_hook(before_loss)
        made.register_hook(after_loss)
        return loss


def training_step(
    forward: Callable[[], Tensor], leaves: tuple[Tensor, ...], grad_output: Tensor | None
) -> Callable[[], Tensor]:
    """Closures, not one general method: a call of 4x10 takes microseconds, and the frame must not dilute the ratio."""
    if not leaves:
        return forward
    if len(leaves) == 1 and grad_output is None:
        (leaf,) = leaves

        def plain_step() -> Tensor:
            leaf.grad = None
            loss = forward()
            loss.backward()
            return loss

        return plain_step

    def step() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        loss = forward()
        loss.backward(grad_output)
        return loss

    return step


class LayerOutput(torch.autograd.Function):
    """`stored` as the output of a layer that costs nothing: no copy forward, and backward keeps `stored.grad`."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, stored: Tensor) -> Tensor:
        ctx.stored = stored
        # The same storage under another tensor: a view would count as a part of `stored`, which is a leaf.
        # set_ is annotated for storages alone, and takes a tensor too.
        return torch.empty(0, dtype=stored.dtype).set_(stored)  # type: ignore[call-overload, no-any-return]  # as said

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        ctx.stored.grad = grad_outputs[0]
        return None, None


def make_overwriting_peer(problem: Problem, name: str, function: Loss, options: Mapping[str, Any]) -> Peer:
    """A loss that writes the gradient over its input.

    It refuses a leaf, because the leaf's values would be lost; it is meant for the output of a layer, and gets one.
    The values come back before each call, outside the timing.
    """
    ((key, original),) = problem.inputs.items()
    stored = original.clone()
    anchor = torch.zeros((), requires_grad=True)

    def forward() -> Tensor:
        output = LayerOutput.apply(anchor, stored)  # type: ignore[no-untyped-call]  # apply has no annotations
        return function(output, *problem.constants, **options)

    def restore() -> None:
        # The gradient lies in the same storage.
        stored.grad = None
        stored.copy_(original)

    output = LayerOutput.apply(anchor, stored)  # type: ignore[no-untyped-call]  # apply has no annotations
    return Peer(
        name=name,
        step=training_step(forward, (stored,), problem.grad_outputs[0]),
        forward=forward,
        leaves={key: stored},
        restore=restore,
        dispatch=dispatch_of(function, output, *problem.constants, **options),
    )


def dispatch_of(function: Loss, *arguments: Tensor, **options: Any) -> str:
    answer = losskit.explain_dispatch(function, *arguments, **options)
    return f"{answer.backend}: {answer.reason}"


def make_loss_peer(problem: Problem, name: str, function: Loss, options: Mapping[str, Any]) -> Peer:
    all_options = {**problem.options, **options}
    if "inplace_backward" in options and problem.produce is None:
        return make_overwriting_peer(problem, name, function, all_options)
    leaves = {key: value.detach().requires_grad_(problem.needs_grad) for key, value in problem.inputs.items()}
    tensors = (*leaves.values(), *problem.constants)
    loss_seconds: list[float] = []
    forward: Callable[[], Tensor]
    if problem.produce is None:
        arguments = tensors
        forward = partial(function, *tensors, **all_options)
    else:
        timed = TimedInside(function, problem.produce)
        arguments = (problem.produce(*leaves.values()), *problem.constants) if name in OPTIONS_OF else ()
        forward = partial(timed, *tensors, inputs=len(leaves), **all_options)
        loss_seconds = timed.seconds
    return Peer(
        name=name,
        step=training_step(forward, tuple(leaves.values()) if problem.needs_grad else (), problem.grad_outputs[0]),
        forward=forward,
        leaves=leaves if problem.needs_grad else {},
        loss_seconds=loss_seconds,
        dispatch=dispatch_of(function, *arguments, **all_options) if name in OPTIONS_OF else None,
    )


def make_copy(problem: Problem) -> Peer:
    """The limit: the loss's input read once and written once, into a buffer whose pages exist."""
    source = next(iter(problem.inputs.values()))
    destination = source.clone()

    def copy() -> None:
        destination.copy_(source)

    return Peer("copy", copy)


def chunked(hidden: Tensor, projection: Tensor, target: Tensor, **options: Any) -> Tensor:
    """torch's own linear cross entropy in chunks, of 1024 rows: its own choice of them is slower."""
    given = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=min(1024, len(hidden)))
    return torch.nn.functional.linear_cross_entropy(hidden, projection, target, options=given, **options)


def make_linear_products(problem: Problem) -> Peer:
    """The three products of a layer that is inside its loss, in the chunks and by the library that losskit takes."""
    hidden, projection = problem.inputs.values()
    workspace = problem.workspace or 1
    count, classes = len(hidden), len(projection)
    chunks = -(-count // max(1, workspace // (4 * classes)))
    rows = -(-count // chunks)
    multiply = products_for(hidden, projection, count, False, workspace)
    supplied = torch.full((rows, classes), 1e-6)
    # One result after the other in the same memory, as losskit's come from its pool.
    scores, by_hidden, by_projection = (torch.empty_like(tensor) for tensor in (supplied, hidden, projection))

    def products() -> None:
        for begin in range(0, count, rows):
            part = hidden[begin : begin + rows]
            multiply.scores(part, projection, None, scores[: len(part)])
            multiply.by_input(supplied[: len(part)], projection, by_hidden[begin : begin + rows])
            multiply.by_layer(supplied[: len(part)], part, by_projection, begin == 0)

    return Peer("products", products)


def make_products(problem: Problem) -> Peer:
    """The step without its loss: the same products through autograd, with the gradient of the loss's input supplied."""
    if problem.workspace is not None:
        return make_linear_products(problem)
    if problem.produce is None:
        raise ValueError("products: this workload has no operation before its loss.")
    produce = problem.produce
    leaves = tuple(value.detach().requires_grad_() for value in problem.inputs.values())
    with torch.no_grad():
        supplied = torch.full_like(produce(*leaves), 1e-6)

    def products() -> None:
        for leaf in leaves:
            leaf.grad = None
        produce(*leaves).backward(supplied)

    return Peer("products", products)


def make_peer(problem: Problem, name: str) -> Peer:
    if name == "copy":
        return make_copy(problem)
    if name == "products":
        return make_products(problem)
    if name == "eager":
        return make_loss_peer(problem, name, problem.eager, {})
    if name == "chunked":
        return make_loss_peer(problem, name, chunked, {})
    if name in COMPILED:
        # A cache of an earlier workload would count against the recompilation limit of the same function.
        torch.compiler.reset()
        function = problem.eager if name == "compile" else problem.losskit
        return make_loss_peer(problem, name, torch.compile(function, dynamic=False), {})
    if name == "watched":
        # losskit's module, with somebody who looks at its calls as long as it lives.
        criterion = copy.deepcopy(problem.losskit)
        losskit.watch(criterion)
        return make_loss_peer(problem, name, criterion, {})
    return make_loss_peer(problem, name, problem.losskit, OPTIONS_OF[name])
