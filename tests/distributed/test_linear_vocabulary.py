"""A linear layer in shards and cross entropy of its scores: the numbers of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from cases import dtype_name
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from distributed.collectives import Collectives, rounding
from distributed.ranks import on_ranks
from losskit import errors
from losskit.core.scores import ClassStats
from losskit.distributed import ShardStats, vocab_parallel_linear_cross_entropy
from losskit.functional import cross_entropy

ROWS, FEATURES, CLASSES = 12, 6, 23
CUTS = {2: ((0, 11, 23), (0, 0, 23)), 4: ((0, 7, 7, 20, 23),)}


@dataclass
class Case:
    """A call on all classes."""

    options: dict[str, Any] = field(default_factory=dict)
    bias: bool = True
    weight: bool = False
    probabilities: bool = False
    lost: bool = False

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(7)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).bfloat16().to(dtype)

        x, layer, bias = normal(ROWS, FEATURES), normal(CLASSES, FEATURES), normal(CLASSES) if self.bias else None
        target = torch.randint(CLASSES, (ROWS,), generator=generator)
        target[5] = -100
        if self.lost:
            x[5] = float("nan")
        if self.probabilities:
            target = normal(ROWS, CLASSES).softmax(1)
        options = dict(self.options)
        if self.weight:
            options["weight"] = normal(CLASSES).abs()
        for name in ("sample_weight", "mask"):
            if options.get(name):
                values = normal(ROWS).abs()
                options[name] = values if name == "sample_weight" else values > 0.3
        return x, layer, bias, target, options


CASES = {
    "plain": Case(bias=False),
    "bias": Case({"reduction": "sum"}),
    "none": Case({"reduction": "none", "sample_weight": True}),
    "a row that is lost": Case(lost=True),
    "one row at a time": Case({"workspace": 1, "label_smoothing": 0.1, "mask": True}, weight=True),
    "five rows at a time": Case({"workspace": 5 * 8 * 23, "softcap": 3.0, "z_loss": 0.01}),
    "probabilities": Case({"workspace": 3 * 8 * 23, "label_smoothing": 0.1}, probabilities=True),
    "stats": Case({"return_stats": True, "logit_scale": 0.5}),
    "rank": Case({"return_stats": "rank", "logit_scale": 0.5}),
    "sequence": Case({"sequence_parallel": True, "label_smoothing": 0.1}, lost=True),
}


@dataclass
class Outcome:
    loss: Tensor
    grads: list[Tensor]
    stats: ClassStats | ShardStats | None
    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)


def upstream(loss: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)


def whole(case: Case, dtype: torch.dtype, computed_in: torch.dtype) -> Outcome:
    x, layer, bias, target, options = case.tensors(dtype)
    options = {name: value for name, value in options.items() if name not in ("workspace", "sequence_parallel")}
    if case.weight:
        options["weight"] = options["weight"].to(computed_in)
    if "return_stats" in options:
        options["return_stats"] = True
    target = target.to(computed_in) if case.probabilities else target
    leaves = [tensor.to(computed_in).requires_grad_() for tensor in (x, layer, bias) if tensor is not None]
    rows = leaves[0]
    if case.lost:
        # What a row that does not count holds reaches nothing.
        rows = rows.masked_fill(torch.arange(ROWS).unsqueeze(1) == 5, 0)
    result = cross_entropy(torch.nn.functional.linear(rows, *leaves[1:]), target, backend="reference", **options)
    loss, stats = result if isinstance(result, tuple) else (result, None)
    return Outcome(loss.detach(), list(torch.autograd.grad(loss, leaves, upstream(loss))), stats)


def in_shards(case: Case, dtype: torch.dtype, cuts: tuple[int, ...]) -> Outcome:
    rank, size = distributed.get_rank(), distributed.get_world_size()
    x, layer, bias, target, options = case.tensors(dtype)
    here = slice(cuts[rank], cuts[rank + 1])
    target = target[:, here] if case.probabilities else target
    if "sequence_parallel" in options:
        x = x.chunk(size)[rank]
    leaves = [x.clone(), layer[here].clone(), *([] if bias is None else [bias[here].clone()])]
    for leaf in leaves:
        leaf.requires_grad_()
    with Collectives() as forward:
        result = vocab_parallel_linear_cross_entropy(
            leaves[0],
            leaves[1],
            target,
            linear_bias=None if bias is None else leaves[2],
            vocab_start=here.start,
            **options,
        )
    loss, stats = result if isinstance(result, tuple) else (result, None)
    with Collectives() as backward:
        grads = torch.autograd.grad(loss, leaves, upstream(loss), retain_graph=True)
    again = torch.autograd.grad(loss, leaves, upstream(loss))
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
    return Outcome(loss.detach(), list(grads), stats, forward.names, backward.names)


def every_case(names: list[str], dtype: torch.dtype) -> dict[Any, Outcome]:
    cuts = CUTS[distributed.get_world_size()]
    return {(name, cut): in_shards(CASES[name], dtype, cut) for name in names for cut in cuts}


def as_dtensors() -> tuple[Tensor, list[Tensor]]:
    line = init_device_mesh("cpu", (distributed.get_world_size(),))
    x, layer, bias, target, _ = CASES["bias"].tensors(torch.float64)
    assert bias is not None
    placed = [
        distribute_tensor(x.reshape(3, 4, FEATURES), line, [Replicate()]).requires_grad_(),
        distribute_tensor(layer, line, [Shard(0)]).requires_grad_(),
        distribute_tensor(bias, line, [Shard(0)]).requires_grad_(),
    ]
    loss = vocab_parallel_linear_cross_entropy(
        placed[0], placed[1], target.reshape(3, 4), linear_bias=placed[2], reduction="none"
    )
    assert loss.shape == (3, 4)
    grads = torch.autograd.grad(loss.sum(), placed)
    return loss.detach(), [grad.full_tensor() for grad in grads]


def everything() -> dict[str, Any]:
    return {
        "float64": every_case(list(CASES), torch.float64),
        "float32": every_case(list(CASES), torch.float32),
        "bfloat16": every_case(["bias", "one row at a time", "sequence"], torch.bfloat16),
        "dtensors": as_dtensors(),
    }


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return on_ranks(request.param, everything)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=dtype_name)
def test_the_numbers_of_one_process(found: list[dict[str, Any]], dtype: torch.dtype) -> None:
    for key in found[0][dtype_name(dtype)]:
        case, ranks = CASES[key[0]], [rank[dtype_name(dtype)][key] for rank in found]
        exact, eager = whole(case, dtype, torch.float64), whole(case, dtype, dtype)
        by_x = ranks[0].grads[0]
        if "sequence_parallel" in case.options:
            by_x = torch.cat([ours.grads[0] for ours in ranks])
        else:
            assert all(torch.equal(ours.grads[0], by_x) for ours in ranks), key
        assert all(torch.equal(ours.loss, ranks[0].loss) for ours in ranks), key
        ours = [ranks[0].loss, by_x]
        ours += [torch.cat([rank.grads[index] for rank in ranks]) for index in range(1, len(exact.grads))]
        for mine, truth, theirs in zip(ours, [exact.loss, *exact.grads], [eager.loss, *eager.grads], strict=True):
            assert mine.dtype == dtype
            assert mine.shape == truth.shape
            eps = torch.finfo(dtype).eps
            limit = 1e-12 if dtype == torch.float64 else 4 * max(rounding(theirs, truth), eps)
            assert rounding(mine, truth) <= limit, key
        if exact.stats is not None:
            for name, value in ranks[0].stats._asdict().items():
                torch.testing.assert_close(value, getattr(exact.stats, name).to(value.dtype), msg=f"{key} {name}")


def test_one_collective_forward_and_one_backward(found: list[dict[str, Any]]) -> None:
    for rank in found:
        for (name, _), outcome in rank["float32"].items():
            if name == "sequence":
                assert outcome.forward == ["allgather_base"] * 2
                assert outcome.backward == ["allgather_base", "reduce_scatter_base"]
            else:
                assert outcome.forward == ["allgather_base"] + ["allreduce"] * (name == "rank"), name
                assert outcome.backward == ["allreduce"], name


def test_dtensors(found: list[dict[str, Any]]) -> None:
    x, layer, bias, target, _ = CASES["bias"].tensors(torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (x, layer, bias) if tensor is not None]
    loss = cross_entropy(torch.nn.functional.linear(*leaves), target, reduction="none", backend="reference")
    exact = torch.autograd.grad(loss.sum(), leaves)
    for rank in found:
        ours, grads = rank["dtensors"]
        torch.testing.assert_close(ours.reshape(-1), loss.detach(), rtol=1e-12, atol=1e-14)
        for mine, truth in zip(grads, exact, strict=True):
            assert rounding(mine.reshape(truth.shape), truth) < 1e-12


LAYER, X, LABELS = torch.ones(4, 3), torch.ones(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f(X, LAYER[:, :2], LABELS, vocab_start=0),
            RuntimeError,
            "linear_weight must have the shape (C, K) and input (…, K), got (4, 2) and (2, 3).",
        ),
        (
            lambda f: f(X, LAYER, LABELS, linear_bias=torch.ones(3), vocab_start=0),
            RuntimeError,
            "linear_bias must have the shape of linear_weight without its last dimension, (4,), got (3,).",
        ),
        (
            lambda f: f(X, LAYER.bfloat16(), LABELS, vocab_start=0),
            RuntimeError,
            "linear_weight must have the dtype of input, float32, got bfloat16: linear_weight.to(torch.float32)?",
        ),
        (
            lambda f: f(X, LAYER, LABELS[:1], vocab_start=0),
            RuntimeError,
            "target must have the shape (2,), or (2, 4) for class probabilities, got (1,).",
        ),
        (
            lambda f: f(X, LAYER, torch.ones(2, 4, requires_grad=True), vocab_start=0),
            RuntimeError,
            "target has no gradient here, but it requires one: target.detach(), or vocab_parallel_cross_entropy of the "
            "scores.",
        ),
        (
            lambda f: f(X[0], LAYER, LABELS[0], vocab_start=0, sequence_parallel=True),
            RuntimeError,
            "sequence_parallel=True needs an input of shape (N, …, K), got (K).",
        ),
    ],
)
def test_errors(call: Callable[[Any], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call(vocab_parallel_linear_cross_entropy)
    assert str(raised.value) == f"vocab_parallel_linear_cross_entropy: {message}"
    assert isinstance(raised.value, errors.LosskitError)


def test_one_process_without_a_group() -> None:
    x, layer = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    target = torch.tensor([0, 6, 3, -100, 2])
    ours = vocab_parallel_linear_cross_entropy(x, layer, target, vocab_start=0)
    exact = cross_entropy(x @ layer.t(), target)
    torch.testing.assert_close(ours, exact)
    for mine, truth in zip(torch.autograd.grad(ours, (x, layer)), torch.autograd.grad(exact, (x, layer)), strict=True):
        torch.testing.assert_close(mine, truth)


def test_a_layer_without_classes_is_told_of() -> None:
    with pytest.raises(
        errors.LosskitRuntimeError, match=r"linear_weight must have a dimension of classes, got a 0-dim"
    ):
        vocab_parallel_linear_cross_entropy(torch.randn(2, 3), torch.tensor(1.0), torch.tensor([0, 1]), vocab_start=0)
