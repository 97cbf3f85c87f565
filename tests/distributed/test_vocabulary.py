"""Cross entropy over a vocabulary in shards: the numbers of one process, with one collective."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed._functional_collectives as funcol
from cases import dtype_name
from torch import Tensor, distributed, nn
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from distributed.collectives import Collectives, rounding
from distributed.ranks import on_ranks
from losskit import errors
from losskit.core.scores import ClassStats
from losskit.distributed import (
    ShardStats,
    exchange,
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)
from losskit.functional import cross_entropy
from losskit.kernels import cpu

CLASSES = 23
# Where the classes are cut: uneven, a rank without a class, all classes on one rank.
CUTS = {2: ((0, 11, 23), (0, 20, 23), (0, 0, 23)), 4: ((0, 7, 7, 20, 23), (0, 6, 12, 18, 23))}


@dataclass
class Case:
    """A call on all classes. What has an axis of classes is cut for the ranks."""

    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (9, CLASSES)
    probabilities: bool = False
    weight: str = ""
    offset: float = 0.0
    excluded: bool = False
    nothing_counts: bool = False

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
        generator = torch.Generator().manual_seed(5)
        logits = torch.randn(self.shape, generator=generator, dtype=torch.float64) * 3
        if self.excluded:
            # A whole shard of some rows, and single classes of others, that are not a target.
            logits[:4, 7:] = float("-inf")
            logits[5, [1, 9, 22]] = float("-inf")
        # Rounded first: the dtypes are to get the same numbers.
        logits = (logits + self.offset).bfloat16() if dtype == torch.bfloat16 else (logits + self.offset).float()
        loss_shape = (*self.shape[:1], *self.shape[2:]) if len(self.shape) > 1 else ()
        options = dict(self.options)
        if self.probabilities:
            target = torch.rand(self.shape, generator=generator, dtype=torch.float64).float()
            target[torch.isinf(logits)] = 0
            target = target.bfloat16() if dtype == torch.bfloat16 else target
            target = target.to(dtype)
        else:
            target = torch.randint(6 if self.excluded else CLASSES, loss_shape, generator=generator)
            target[target == 1] = 0
            if target.numel() > 3:
                target.flatten()[3] = options.get("ignore_index", -100)
            if self.nothing_counts:
                target.fill_(-100)
        if self.weight:
            weight = torch.rand(CLASSES, generator=generator).bfloat16()
            weight[4] = 0
            options["weight"] = weight.to(dtype)
        for name in ("sample_weight", "mask"):
            if options.get(name):
                values = torch.rand(loss_shape, generator=generator).bfloat16().float()
                options[name] = values if name == "sample_weight" else values > 0.3
        return logits.to(dtype), target, options


CASES = {
    "plain": Case(),
    "sum": Case({"reduction": "sum"}),
    "none": Case({"reduction": "none"}),
    "one sample": Case(shape=(CLASSES,)),
    "a map": Case({"label_smoothing": 0.1}, shape=(2, CLASSES, 3, 2)),
    "no rows": Case({"reduction": "sum"}, shape=(0, CLASSES)),
    "ignored": Case({"ignore_index": 2}),
    "nothing counts": Case({"on_empty": "zero"}, nothing_counts=True),
    "smoothing": Case({"label_smoothing": 0.1}),
    "smoothing alone": Case({"label_smoothing": 1.0}),
    "weight": Case(weight="all"),
    "weight of the shard": Case({"label_smoothing": 0.2}, weight="shard"),
    "factors": Case({"sample_weight": True, "mask": True, "label_smoothing": 0.1}, weight="all"),
    "normalizer": Case({"normalizer": 17.5}),
    "z_loss": Case({"z_loss": 0.01, "mask": True}, weight="all"),
    "softcap": Case({"softcap": 5.0, "logit_scale": 0.7, "label_smoothing": 0.1}),
    "probabilities": Case(probabilities=True),
    "probabilities, all": Case(
        {"label_smoothing": 0.1, "mask": True, "z_loss": 0.01, "reduction": "none"}, probabilities=True, weight="shard"
    ),
    "excluded": Case({"z_loss": 0.01}, excluded=True),
    "excluded probabilities": Case(excluded=True, probabilities=True),
    "offset": Case({"label_smoothing": 0.1}, offset=1e4),
    "offset, probabilities": Case(offset=1e4, probabilities=True),
}
STATS = {
    "stats": Case({"return_stats": True, "ignore_index": 2}),
    "stats of probabilities": Case({"return_stats": True, "mask": True}, probabilities=True),
    "stats, all": Case({"return_stats": True, "softcap": 5.0, "label_smoothing": 0.1}, weight="all", excluded=True),
}
# With a collective more.
RANKS = {
    name.replace("stats", "rank"): replace(case, options=case.options | {"return_stats": "rank"})
    for name, case in STATS.items()
}


@dataclass
class Outcome:
    loss: Tensor
    by_logits: Tensor
    by_target: Tensor | None
    stats: ClassStats | ShardStats | None = None
    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)


def upstream(loss: Tensor) -> Tensor:
    """A gradient of the loss that differs from row to row."""
    return torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape)


def whole(case: Case, dtype: torch.dtype, computed_in: torch.dtype) -> Outcome:
    """The call on numbers of one dtype in one process, by the definition in another dtype."""
    logits, target, options = case.tensors(dtype)
    logits = logits.to(computed_in).requires_grad_()
    if case.probabilities:
        target = target.to(computed_in)
    if case.weight:
        options["weight"] = options["weight"].to(computed_in)
    target.requires_grad_(case.probabilities)
    if "return_stats" in options:
        options["return_stats"] = True
    result = cross_entropy(logits, target, backend="reference", **options)
    loss, stats = result if isinstance(result, tuple) else (result, None)
    grads = torch.autograd.grad(loss, [logits, target] if case.probabilities else [logits], upstream(loss))
    return Outcome(loss.detach(), grads[0], grads[1] if case.probabilities else None, stats)


def in_shards(case: Case, dtype: torch.dtype, cuts: tuple[int, ...], watched: bool) -> Outcome:
    """This rank's part of the call. To watch for collectives keeps the kernels out."""
    rank = distributed.get_rank()
    logits, target, options = case.tensors(dtype)
    axis = 1 if logits.ndim > 1 else 0
    begin, size = cuts[rank], cuts[rank + 1] - cuts[rank]
    logits = logits.narrow(axis, begin, size).clone().requires_grad_()
    if case.probabilities:
        target = target.narrow(axis, begin, size).clone().requires_grad_()
    if case.weight == "shard":
        options["weight"] = options["weight"].narrow(0, begin, size)
    forward, backward = Collectives(), Collectives()
    with forward if watched else nullcontext():
        result = vocab_parallel_cross_entropy(logits, target, vocab_start=begin, **options)
    loss, stats = result if isinstance(result, tuple) else (result, None)
    with backward if watched else nullcontext():
        wanted = [logits, target] if case.probabilities else [logits]
        grads = torch.autograd.grad(loss, wanted, upstream(loss), retain_graph=True)
        again = torch.autograd.grad(loss, wanted, upstream(loss))
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
    return Outcome(
        loss.detach(), grads[0], grads[1] if case.probabilities else None, stats, forward.names, backward.names
    )


def every_case(names: list[str], dtype: torch.dtype, watched: bool = False) -> dict[Any, Outcome]:
    cases = CASES | STATS | RANKS
    cuts = CUTS[distributed.get_world_size()]
    return {(name, cut): in_shards(cases[name], dtype, cut, watched) for name in names for cut in cuts}


def in_two_steps() -> dict[Any, Outcome]:
    """With a limit that every block of numbers exceeds."""
    with mock.patch.object(exchange, "GATHERED_BYTES", 0):
        return every_case(
            [*CASES, "stats", "stats of probabilities", "rank", "rank of probabilities"], torch.float64, watched=True
        )


def refused() -> dict[str, str]:
    """What is wrong on all ranks alike must raise on all ranks alike."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    logits, target = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 2])
    here = {"vocab_start": 4 * rank}
    calls: dict[str, tuple[type[Exception], Callable[[], object]]] = {
        "range": (
            IndexError,
            lambda: vocab_parallel_cross_entropy(logits, torch.tensor([0, 4 * size, 1]), **here),
        ),
        "padding": (
            IndexError,
            lambda: vocab_parallel_cross_entropy(logits, torch.tensor([0, 5, 1]), vocab_size=5, **here),
        ),
        "overlap": (ValueError, lambda: vocab_parallel_cross_entropy(logits, target, vocab_start=3 * rank)),
        "start": (TypeError, lambda: vocab_parallel_cross_entropy(logits, target)),
        "empty": (
            RuntimeError,
            lambda: vocab_parallel_cross_entropy(logits, torch.full((3,), -100), on_empty="raise", **here),
        ),
        "weight": (RuntimeError, lambda: vocab_parallel_cross_entropy(logits, target, torch.ones(3), **here)),
        "weights": (
            RuntimeError,
            lambda: vocab_parallel_cross_entropy(logits, target, torch.ones(4 * size + 1), **here),
        ),
        "options": (ValueError, lambda: vocab_parallel_cross_entropy(logits, target, z_loss=0.1 * (rank > 0), **here)),
        "targets": (ValueError, lambda: vocab_parallel_cross_entropy(logits, target.roll(rank // (size - 1)), **here)),
        "masks": (
            ValueError,
            lambda: vocab_parallel_cross_entropy(
                logits, logits.detach().softmax(1), mask=torch.arange(3) > rank // (size - 1), **here
            ),
        ),
        "create_graph": (
            RuntimeError,
            lambda: torch.autograd.grad(
                vocab_parallel_cross_entropy(logits, target, **here), logits, create_graph=True
            ),
        ),
    }
    messages = {}
    for name, (kind, call) in calls.items():
        with pytest.raises(kind) as raised:
            call()
        assert isinstance(raised.value, errors.LosskitError)
        messages[name] = str(raised.value)
    return messages


def padded() -> tuple[Tensor, Tensor]:
    """Five classes in shards that have room for more."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    held = -(-8 // size)
    logits = torch.arange(3 * held * size, dtype=torch.float64).reshape(3, -1).sin()
    logits[:, 5:] = float("nan")
    local = logits[:, held * rank : held * (rank + 1)].clone().requires_grad_()
    loss = vocab_parallel_cross_entropy(
        local,
        torch.tensor([4, 0, 2]),
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64),
        vocab_start=held * rank,
        vocab_size=5,
        label_smoothing=0.1,
    )
    return loss.detach(), torch.autograd.grad(loss, local)[0]


def as_dtensors() -> dict[str, tuple[Tensor, Tensor]]:
    """Nothing but the DTensor tells how the classes lie; 23 are no multiple of the ranks."""
    size = distributed.get_world_size()
    logits, target, options = CASES["weight of the shard"].tensors(torch.float64)
    line = init_device_mesh("cpu", (size,))
    placed = distribute_tensor(logits, line, [Shard(-1)]).requires_grad_()
    options["weight"] = distribute_tensor(options["weight"], line, [Shard(0)])
    loss = vocab_parallel_cross_entropy(placed, distribute_tensor(target, line, [Replicate()]), **options)
    (grad,) = torch.autograd.grad(loss, placed)
    found = {"line": (loss.detach(), grad.full_tensor())}
    # Rows over one dimension of the mesh, classes over the other: each rank's loss is that of its rows.
    square = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("dp", "tp"))
    placed = distribute_tensor(logits, square, [Shard(0), Shard(1)]).requires_grad_()
    rows = distribute_tensor(target, square, [Shard(0), Replicate()])
    loss = vocab_parallel_cross_entropy(placed, rows, reduction="sum")
    (grad,) = torch.autograd.grad(loss, placed)
    found["square"] = (funcol.all_reduce(loss.detach(), "sum", square["dp"]).clone(), grad.full_tensor())
    with pytest.raises(TypeError, match="is a DTensor, which knows its vocab_start and group"):
        vocab_parallel_cross_entropy(placed, rows, vocab_start=0)
    with pytest.raises(RuntimeError, match=r"must be cut along its classes over one dimension of its mesh, Shard\(1\)"):
        vocab_parallel_cross_entropy(distribute_tensor(logits, line, [Shard(0)]), target)
    with pytest.raises(RuntimeError, match="target must be the same on every rank of the vocabulary's group"):
        vocab_parallel_cross_entropy(placed, distribute_tensor(target, square, [Shard(0), Shard(0)]))
    return found


def everything() -> dict[str, Any]:
    return {
        "float64": every_case([*CASES, *STATS, *RANKS], torch.float64),
        "float32": every_case([*CASES, *STATS, *RANKS], torch.float32),
        "watched": every_case([*CASES, *STATS, *RANKS], torch.float32, watched=True),
        "bfloat16": every_case(
            ["plain", "weight", "ignored", "weight of the shard", "probabilities, all", "offset"], torch.bfloat16
        ),
        "two steps": in_two_steps(),
        "refused": refused(),
        "padded": padded(),
        "dtensors": as_dtensors(),
    }


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each rank has found; the ranks are started once."""
    return on_ranks(request.param, everything)


def same_bits(tensors: list[Tensor]) -> bool:
    """Also of NaN."""
    return all(torch.equal(tensors[0].view(torch.uint8), tensor.view(torch.uint8)) for tensor in tensors[1:])


def assert_as_one_process(found: list[dict[Any, Outcome]], dtype: torch.dtype) -> None:
    for key in found[0]:
        case = (CASES | STATS | RANKS)[key[0]]
        ranks = [outcomes[key] for outcomes in found]
        exact, eager = whole(case, dtype, torch.float64), whole(case, dtype, dtype)
        for ours in ranks:
            assert ours.loss.shape == exact.loss.shape, key
            assert ours.loss.dtype == dtype, key
        assert same_bits([ours.loss.reshape(-1) for ours in ranks]), key
        axis = 1 if len(case.shape) > 1 else 0
        pairs = [(ranks[0].loss, exact.loss, eager.loss)]
        pairs.append((torch.cat([ours.by_logits for ours in ranks], axis), exact.by_logits, eager.by_logits))
        if case.probabilities:
            by_target = torch.cat([ours.by_target for ours in ranks], axis)
            pairs.append((by_target, exact.by_target, eager.by_target))
        for ours, truth, theirs in pairs:
            finite = truth.isfinite()
            torch.testing.assert_close(ours[~finite], truth[~finite].to(ours.dtype), equal_nan=True, msg=str(key))
            if bool(finite.any()) and float(truth[finite].norm()) > 0:
                form = torch.finfo(dtype)
                limit = 1e-12 if dtype == torch.float64 else 4 * max(rounding(theirs[finite], truth[finite]), form.eps)
                assert rounding(ours[finite], truth[finite]) <= limit, key
            else:
                assert bool((ours[finite] == 0).all()), key
        if exact.stats is not None:
            assert isinstance(ranks[0].stats, ClassStats if key[0] in RANKS else ShardStats)
            for name, value in ranks[0].stats._asdict().items():
                truth = getattr(exact.stats, name)
                assert same_bits([getattr(ours.stats, name) for ours in ranks]), (key, name)
                torch.testing.assert_close(value, truth.to(value.dtype), msg=f"{key} {name}")
            assert torch.equal(ranks[0].stats.correct, exact.stats.rank == 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=dtype_name)
def test_the_numbers_of_one_process(found: list[dict[str, Any]], dtype: torch.dtype) -> None:
    assert_as_one_process([rank[dtype_name(dtype)] for rank in found], dtype)


def test_one_collective_forward_and_none_backward(found: list[dict[str, Any]]) -> None:
    assert_as_one_process([rank["watched"] for rank in found], torch.float32)
    for rank in found:
        for (name, _), outcome in rank["watched"].items():
            # Counting what is higher than the target's score takes it.
            assert outcome.forward == ["allgather_base"] + ["allreduce"] * (name in RANKS), name
            assert outcome.backward == []


def test_two_all_reduces_where_the_gathered_block_is_large(found: list[dict[str, Any]]) -> None:
    assert_as_one_process([rank["two steps"] for rank in found], torch.float64)
    for rank in found:
        for (name, _), outcome in rank["two steps"].items():
            if name.endswith(" of probabilities"):
                # The score of the most probable class is no sum.
                assert outcome.forward == ["allgather_base"] + ["allreduce"] * (name in RANKS), name
            # Without rows there is nothing that is large.
            elif name != "no rows":
                assert outcome.forward == ["allreduce"] * (3 if name in RANKS else 2), name
            assert outcome.backward == []


def test_an_offset_of_the_logits_costs_no_digits(found: list[dict[str, Any]]) -> None:
    for name in ("offset", "offset, probabilities"):
        exact = whole(CASES[name], torch.float32, torch.float64)
        for key in [key for key in found[0]["float32"] if key[0] == name]:
            ranks = [rank["float32"][key] for rank in found]
            assert rounding(ranks[0].loss, exact.loss) < 1e-6
            assert rounding(torch.cat([ours.by_logits for ours in ranks], 1), exact.by_logits) < 1e-6


def test_a_fault_raises_on_every_rank(found: list[dict[str, Any]]) -> None:
    function, size = "vocab_parallel_cross_entropy", len(found)
    same_targets = f"{function}: target, mask and ignore_index must be the same on all ranks of the group, but rank "
    same_targets += f"{size - 1} differs from rank 0: do the ranks that share a vocabulary get the same batches?"
    odd = "rank 1 differs" if size == 2 else "ranks 1, 2, 3 differ"
    starts = ", ".join(f"[{3 * rank}, {3 * rank + 4})" for rank in range(size))
    for rank in found:
        assert rank["refused"] == {
            "range": f"{function}: 1 of 3 targets lie outside [0, {4 * size}): {{{4 * size}}}, first at index 1. "
            f"min=0, max={4 * size}: {4 * size} is the size of the class dimension of input.",
            "padding": f"{function}: 1 of 3 targets lie outside [0, 5): {{5}}, first at index 1. min=0, max=5: 5 is "
            "the size of the class dimension of input.",
            "overlap": f"{function}: the shards of the ranks must cover the classes from 0 on, each once, got "
            f"{starts}: is vocab_start right?",
            "start": f"{function}: vocab_start must say which class the first of this rank's input stands for; a "
            "DTensor knows.",
            "empty": f"{function}: no value counts (on_empty='raise'): every one is masked, ignored or of weight 0, "
            "or the input is empty.",
            "weight": f"{function}: weight must hold one value for each class, or for each of the 4 of this shard, got "
            "shape (3,).",
            "weights": f"{function}: weight must hold one value for each of the {4 * size} classes of all shards, or "
            f"for each of this shard, got shape ({4 * size + 1},).",
            "options": f"{function}: label_smoothing, z_loss, softcap and logit_scale must be the same on all ranks of "
            f"the group, but {odd} from rank 0.",
            "targets": same_targets,
            "masks": same_targets,
            "create_graph": f"{function}: create_graph=True is not there for a vocabulary in shards, because a "
            "derivative of its gradient needs the other ranks: losskit.functional.cross_entropy has it.",
        }


def test_padding_neither_counts_nor_gets_a_gradient(found: list[dict[str, Any]]) -> None:
    held = -(-8 // len(found))
    logits = torch.arange(3 * held * len(found), dtype=torch.float64).reshape(3, -1).sin()[:, :5].requires_grad_()
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    loss = cross_entropy(logits, torch.tensor([4, 0, 2]), weight, label_smoothing=0.1, backend="reference")
    (grad,) = torch.autograd.grad(loss, logits)
    ours = torch.cat([rank["padded"][1] for rank in found], 1)
    torch.testing.assert_close(found[0]["padded"][0], loss.detach(), rtol=1e-12, atol=0)
    assert rounding(ours[:, :5], grad) < 1e-12
    assert bool((ours[:, 5:] == 0).all())


def test_dtensors(found: list[dict[str, Any]]) -> None:
    exact = whole(CASES["weight of the shard"], torch.float64, torch.float64)
    logits, target, options = CASES["weight of the shard"].tensors(torch.float64)
    logits.requires_grad_()
    total = cross_entropy(logits, target, reduction="sum", backend="reference")
    (grad,) = torch.autograd.grad(total, logits)
    one = cross_entropy(logits, target, backend="reference", **options)
    for rank in found:
        loss, by_logits = rank["dtensors"]["line"]
        torch.testing.assert_close(loss, exact.loss, rtol=1e-12, atol=0)
        assert rounding(by_logits, torch.autograd.grad(one, logits, retain_graph=True)[0]) < 1e-12
        loss, by_logits = rank["dtensors"]["square"]
        torch.testing.assert_close(loss, total.detach(), rtol=1e-12, atol=0)
        assert rounding(by_logits, grad) < 1e-12


def test_the_example_of_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "distributed.md").read_text("utf-8")
    examples = doctest.DocTestParser().get_doctest(page, {"torch": torch}, "distributed.md", None, 0)
    assert len(examples.examples) == 3
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_one_process_without_a_group() -> None:
    logits, target = torch.randn(5, 7, requires_grad=True), torch.tensor([0, 6, 3, -100, 2])
    ours = vocab_parallel_cross_entropy(logits, target, vocab_start=0, label_smoothing=0.1)
    exact = cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(ours, exact)
    torch.testing.assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(exact, logits))


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, True),
        ({"weight": torch.ones(7), "label_smoothing": 0.1, "z_loss": 0.1}, True),
        ({"return_stats": True}, False),
        ({"softcap": 3.0}, False),
    ],
)
def test_the_kernels_are_used(options: dict[str, Any], taken: bool) -> None:
    if not cpu.available():
        pytest.skip("the kernels are not built")
    logits, target = torch.randn(5, 7), torch.tensor([0, 6, 3, -100, 2])
    with mock.patch.object(cpu, "evaluate_class_loss", wraps=cpu.evaluate_class_loss) as kernel:
        vocab_parallel_cross_entropy(logits, target, vocab_start=0, **options)
    assert kernel.called is taken


def test_a_row_that_does_not_count_may_hold_anything() -> None:
    logits, target = torch.randn(3, 5), torch.tensor([1, -100, 2])
    logits[1] = torch.tensor([float("nan"), 1, float("inf"), 2, 3])
    for own in (logits.requires_grad_(), logits.detach().double().requires_grad_()):
        loss = vocab_parallel_cross_entropy(own, target, vocab_start=0)
        (grad,) = torch.autograd.grad(loss, own)
        torch.testing.assert_close(loss, cross_entropy(own, target))
        assert bool((grad[1] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=dtype_name)
def test_a_row_without_a_softmax_is_nan(dtype: torch.dtype) -> None:
    for row in ([float("nan"), 0.0], [float("inf"), 0.0], [float("-inf")] * 2):
        logits = torch.tensor([row, [1.0, 2.0]], dtype=dtype, requires_grad=True)
        losses = vocab_parallel_cross_entropy(logits, torch.tensor([1, 0]), vocab_start=0, reduction="none")
        assert losses.isnan().tolist() == [True, False]
        (grad,) = torch.autograd.grad(losses.sum(), logits)
        assert bool(grad[0].isnan().all())
        assert bool(grad[1].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("row", [[float("inf"), 0.0, 1.0], [float("-inf")] * 3, [0.0, float("-inf"), 1.0]], ids=str)
def test_infinite_scores_are_as_in_one_process(row: list[float], dtype: torch.dtype) -> None:
    logits, index, free = torch.tensor([row], dtype=dtype), torch.tensor([1]), torch.tensor([1, 0, 1], dtype=dtype)
    for target in (index, nn.functional.one_hot(index, 3).to(dtype)):
        for options in ({}, {"label_smoothing": 0.5}, {"z_loss": 0.1}, {"label_smoothing": 1.0}, {"weight": free}):
            ours = vocab_parallel_cross_entropy(logits, target, vocab_start=0, return_stats="rank", **options)
            exact = cross_entropy(logits, target, return_stats=True, backend="reference", **options)
            torch.testing.assert_close(ours, exact, equal_nan=True)
            _, stats = vocab_parallel_cross_entropy(logits, target, vocab_start=0, return_stats=True, **options)
            assert torch.equal(stats.correct, exact[1].correct)


@pytest.mark.parametrize("function", [vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy])
def test_a_tangent_is_not_lost(function: Callable[..., Tensor]) -> None:
    tensors = (torch.randn(3, 4), torch.randn(5, 4)) if "linear" in function.__name__ else (torch.randn(3, 5),)
    target = torch.tensor([0, 4, 2])

    def loss(*tensors: Tensor) -> Tensor:
        return function(*tensors, target, vocab_start=0)

    ones = tuple(torch.ones_like(tensor) for tensor in tensors)
    with forward_ad.dual_level():
        # Without tangents it is a call like any other.
        loss(*tensors)
        with pytest.raises(errors.LosskitRuntimeError, match=r"torch\.func and forward-mode AD are not there"):
            loss(*map(forward_ad.make_dual, tensors, ones))
    for transformed in (
        lambda: torch.func.jvp(loss, tensors, ones),
        lambda: torch.func.grad(loss)(*tensors),
        lambda: torch.func.vmap(loss)(*(tensor.expand(2, *tensor.shape) for tensor in tensors)),
    ):
        with pytest.raises(errors.LosskitRuntimeError, match=r"torch\.func and forward-mode AD are not there"):
            transformed()


def test_gradients_come_one_at_a_time() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    losses = vocab_parallel_cross_entropy(logits, torch.tensor([0, 4, 2]), vocab_start=0, reduction="none")
    with pytest.raises(errors.LosskitRuntimeError, match="is_grads_batched=True is not there"):
        torch.autograd.grad(losses, logits, torch.eye(3), is_grads_batched=True)


@pytest.mark.parametrize("given", [1, None, "all"])
def test_stats_are_asked_for_by_a_bool_or_rank(given: Any) -> None:
    with pytest.raises(errors.LosskitTypeError, match=r"^vocab_parallel_cross_entropy: return_stats must be a bool or"):
        vocab_parallel_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), vocab_start=0, return_stats=given)
