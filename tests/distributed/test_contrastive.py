"""The losses of pairs over several ranks: those of all pairs in one process, and their gradients of every kind."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import losskit
from distributed.collectives import Collectives, rounding
from distributed.ranks import on_ranks
from losskit import distributed as D
from losskit import errors
from losskit import functional as L

# Pairs of each rank: as many, not as many, and none at all.
SIZES = {"even": (5, 5, 5, 5), "uneven": (5, 2, 4, 3), "empty": (4, 0, 6, 1)}
WORLDS = (2, 4)
NAMES = ("clip_loss", "info_nce", "siglip_loss", "shared negatives", "own negatives")
OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "known size": {"max_batch": 6},
    "mask": {"mask": True},
    "weights": {"sample_weight": True},
    "all": {"mask": True, "sample_weight": True, "normalize": False},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "normalizer": {"normalizer": 3.5},
    "a few rows at a time": {"workspace": 400, "backend": "reference"},
}
LENGTH = 3


def sizes_of(world: int, kind: str) -> tuple[int, ...]:
    return SIZES[kind][:world]


def pairs(count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The whole batch."""
    random = torch.Generator().manual_seed(count)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    return {
        "one": normal(count, LENGTH),
        "other": normal(count, LENGTH),
        "own": normal(count, 2, LENGTH),
        "shared": normal(4, LENGTH),
        "mask": torch.rand(count, generator=random) > 0.3,
        "weight": (torch.rand(count, generator=random, dtype=torch.float64) + 0.25).to(dtype),
    }


def part(batch: dict[str, Tensor], sizes: tuple[int, ...], rank: int) -> dict[str, Tensor]:
    place = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return {name: value if name == "shared" else value[place] for name, value in batch.items()}


def leaves_of(batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    wide = torch.promote_types(batch["one"].dtype, torch.float32)
    numbers = {"first": torch.tensor(2.5, dtype=wide), "second": torch.tensor([-1.5], dtype=wide)}
    wanted = {"one", "other", "first", *{"siglip_loss": ["second"], "shared negatives": ["shared"]}.get(name, [])}
    wanted |= {"own"} if name == "own negatives" else set()
    found = {**batch, **numbers}
    return {key: found[key].clone().requires_grad_() for key in found if key in wanted}


def loss_of(room: Any, name: str, batch: dict[str, Tensor], leaves: dict[str, Tensor], **options: Any) -> Tensor:
    """The loss that `room` has, a module of functions."""
    for option, key in (("mask", "mask"), ("sample_weight", "weight")):
        if option in options:
            options[option] = batch[key]
    one, other, number = leaves["one"], leaves["other"], leaves["first"]
    found: Tensor
    if name == "clip_loss":
        found = room.clip_loss(one, other, number, **options)
    elif name == "siglip_loss":
        found = room.siglip_loss(one, other, number, leaves["second"], **options)
    else:
        negatives = leaves.get("shared", leaves.get("own"))
        found = room.info_nce(one, other, negatives, temperature=number / 4, **options)
    return found


SCHEMES = [
    (kind, name, option, dtype)
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
    for kind, name, option in itertools.product(SIZES, NAMES, OPTIONS)
    if dtype == torch.float64 or option in ("mean", "all")
]


def computed(schemes: list[Any]) -> list[Any]:
    """On one rank: the loss of each scheme, and its gradients."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    found = []
    for kind, name, option, dtype in schemes:
        sizes = sizes_of(world, kind)
        own = part(pairs(sum(sizes), dtype), sizes, rank)
        leaves = leaves_of(own, name)
        loss = loss_of(D, name, own, leaves, **OPTIONS[option])
        grads = torch.autograd.grad(loss.sum(), list(leaves.values()))
        found.append((loss.detach(), dict(zip(leaves, grads, strict=True))))
    return found


def expected(world: int, scheme: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """In one process and float64."""
    kind, name, option, dtype = scheme
    batch = pairs(sum(sizes_of(world, kind)), dtype)
    batch = {key: value if key == "mask" else value.double() for key, value in batch.items()}
    leaves = leaves_of(batch, name)
    options = {key: value for key, value in OPTIONS[option].items() if key != "max_batch"}
    loss = loss_of(L, name, batch, leaves, **options)
    grads = torch.autograd.grad(loss.sum(), list(leaves.values()))
    return loss.detach(), dict(zip(leaves, grads, strict=True))


def others(rank: int, world: int) -> dict[str, Any]:
    """On one rank: what is looked at beside values and gradients."""
    sizes = sizes_of(world, "uneven")
    own = part(pairs(sum(sizes), torch.float64), sizes, rank)
    found: dict[str, Any] = {}
    for name in NAMES:
        leaves = leaves_of(own, name)
        for label, more in (("known", {"max_batch": 5}), ("asked", {})):
            with Collectives() as forward:
                loss = loss_of(D, name, own, leaves, **more)
            with Collectives() as backward:
                torch.autograd.grad(loss, list(leaves.values()))
            found[f"{name} {label}"] = (forward.names, backward.names)
        first = torch.autograd.grad(loss_of(D, name, own, leaves), list(leaves.values()), create_graph=True)
        penalty = sum((grad.square().sum() for grad in first[:2]), torch.zeros(()))
        found[f"{name} twice"] = torch.autograd.grad(penalty, list(leaves.values())[:2])
    found["largest"] = largest_tensor(rank, world)
    found["errors"] = errors_of(own, rank)
    found["ddp"] = gradients_of_ddp(rank, world)
    return found


class Largest(TorchDispatchMode):
    """How many numbers the largest floating tensor has that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.numbers = max(self.numbers, tensor.numel())
        return result


def largest_tensor(rank: int, world: int) -> int:
    batch = part(pairs(16 * world, torch.float32), (16,) * world, rank)
    leaves = leaves_of(batch, "clip_loss")
    with Largest() as seen:
        torch.autograd.grad(loss_of(D, "clip_loss", batch, leaves), list(leaves.values()))
    return seen.numbers


def errors_of(own: dict[str, Tensor], rank: int) -> list[str]:
    """Faults that all ranks tell of together."""
    x = own["one"]
    calls: list[Callable[[], object]] = [
        lambda: D.clip_loss(x[:, : LENGTH - rank % 2], x[:, : LENGTH - rank % 2], 1.0),
        lambda: D.siglip_loss(x.float(), x.float(), 1.0) if rank else D.siglip_loss(x, x, 1.0),
        lambda: D.info_nce(x, x, mask=torch.zeros(len(x), dtype=torch.bool), on_empty="raise"),
    ]
    told = []
    for call in calls:
        with pytest.raises(errors.LosskitRuntimeError) as caught:
            call()
        told.append(str(caught.value))
    nothing = torch.zeros(len(x), dtype=torch.bool)
    assert math.isnan(D.info_nce(x, x, mask=nothing))
    assert float(D.info_nce(x, x, mask=nothing, on_empty="zero")) == 0
    return told


class Towers(nn.Module):
    """Two layers and a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        weights = torch.randn(2, LENGTH, LENGTH, generator=random, dtype=torch.float64)
        self.one, self.other = nn.Parameter(weights[0]), nn.Parameter(weights[1])
        self.log_scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return one @ self.one, other @ self.other, self.log_scale.exp()


def gradients_of_ddp(rank: int, world: int) -> list[Tensor]:
    sizes = sizes_of(world, "uneven")
    own = part(pairs(sum(sizes), torch.float64), sizes, rank)
    # Named, since the gradients are averaged as long as it lives.
    model = DistributedDataParallel(Towers())
    D.clip_loss(*model(own["one"], own["other"])).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def everything(schemes: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    return computed(schemes), others(distributed.get_rank(), distributed.get_world_size())


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} ranks")
def ranks(request: pytest.FixtureRequest) -> tuple[int, list[Any]]:
    world: int = request.param
    return world, on_ranks(world, everything, SCHEMES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_loss_and_gradients_are_those_of_one_process(ranks: tuple[int, list[Any]], dtype: torch.dtype) -> None:
    world, results = ranks
    # bfloat16 features are computed in float32, and their gradients rounded once.
    near = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3}[dtype]
    compared = 0
    for place, scheme in enumerate(SCHEMES):
        kind, name, option, of = scheme
        if of != dtype:
            continue
        told = f"{kind}, {name}, {option}"
        truth, slopes = expected(world, scheme)
        losses = [found[0][place][0] for found in results]
        assert {loss.dtype for loss in losses} == {dtype}, told
        options = OPTIONS[option]
        averaged = "reduction" not in options and "normalizer" not in options
        share = world if averaged else 1
        if options.get("reduction") == "none":
            total = torch.cat(losses)
        else:
            total = torch.stack(losses).double().sum(0) / share
        assert rounding(total, truth) < near, told
        for key, slope in slopes.items():
            grads = [found[0][place][1][key] for found in results]
            by_rows = key in ("one", "other", "own")
            mine = torch.cat(grads) if by_rows else torch.stack(grads).sum(0)
            assert rounding(mine.double() / share, slope) < near * (1 if by_rows else 4), f"{told}: {key}"
            compared += 1
    assert compared > 30


def test_one_all_gather_and_one_reduce_scatter(ranks: tuple[int, list[Any]]) -> None:
    for found in ranks[1]:
        for name in NAMES:
            known, asked = found[1][f"{name} known"], found[1][f"{name} asked"]
            gathers, scatters = ([text for text in known[place] if text] for place in (0, 1))
            assert len(gathers) == 1, gathers
            assert "gather" in gathers[0]
            # With negatives that stay where they are nothing comes back.
            assert len(scatters) == (0 if "negatives" in name else 1), scatters
            assert all("reduce_scatter" in text for text in scatters)
            # Before the size of the batches is known, it is asked for.
            assert asked == ([gathers[0], gathers[0]], known[1])


def test_the_similarities_of_the_own_pairs_alone(ranks: tuple[int, list[Any]]) -> None:
    world, results = ranks
    assert [found[1]["largest"] for found in results] == [16 * 16 * world] * world


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_the_gradient(ranks: tuple[int, list[Any]], name: str) -> None:
    world, results = ranks
    batch = pairs(sum(sizes_of(world, "uneven")), torch.float64)
    leaves = leaves_of(batch, name)
    # What a rank has is W times its share of the gradient of the mean.
    loss = world * loss_of(L, name, batch, leaves)
    first = torch.autograd.grad(loss, list(leaves.values())[:2], create_graph=True)
    penalty = sum((grad.square().sum() for grad in first), torch.zeros(()))
    second = torch.autograd.grad(penalty, list(leaves.values())[:2])
    for place, truth in enumerate(second):
        mine = torch.cat([found[1][f"{name} twice"][place] for found in results])
        assert rounding(mine, truth) < 1e-12


def test_what_ddp_makes_of_the_gradients(ranks: tuple[int, list[Any]]) -> None:
    world, results = ranks
    batch = pairs(sum(sizes_of(world, "uneven")), torch.float64)
    model = Towers()
    L.clip_loss(*model(batch["one"], batch["other"])).backward()
    for found in results:
        for mine, parameter in zip(found[1]["ddp"], model.parameters(), strict=True):
            assert parameter.grad is not None
            assert rounding(mine, parameter.grad) < 1e-12


def test_faults_that_all_ranks_tell_of(ranks: tuple[int, list[Any]]) -> None:
    world, results = ranks
    lengths = ", ".join(f"rank {rank}: {LENGTH - rank % 2} of float64" for rank in range(world))
    dtypes = ", ".join(f"rank {rank}: {LENGTH} of float{32 if rank else 64}" for rank in range(world))
    for found in results:
        assert found[1]["errors"] == [
            f"clip_loss: the vectors of all ranks must have the same length and dtype, got {lengths}.",
            f"siglip_loss: the vectors of all ranks must have the same length and dtype, got {dtypes}.",
            "info_nce: no value counts (on_empty='raise'): every one is masked, ignored or of weight 0, or the input "
            "is empty.",
        ]


@pytest.mark.parametrize("name", NAMES)
def test_one_process_is_no_different(name: str) -> None:
    batch = pairs(6, torch.float64)
    leaves = leaves_of(batch, name)
    for options in OPTIONS.values():
        more = {key: value for key, value in options.items() if key != "max_batch"}
        found = loss_of(D, name, batch, leaves, **options)
        assert torch.equal(found, loss_of(L, name, batch, leaves, **more))


def test_errors_of_one_rank() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"^clip_loss: max_batch must be at least the 4 pairs here, got 3\.$"):
        D.clip_loss(x, x, 1.0, max_batch=3)
    with pytest.raises(TypeError, match=r"^siglip_loss: max_batch must be an int, got float\.$"):
        D.siglip_loss(x, x, 1.0, max_batch=4.0)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(RuntimeError, match=r"^info_nce: mask must broadcast to the shape of the unreduced loss"):
        D.info_nce(x, x, mask=torch.ones(5, dtype=torch.bool))


def test_the_functions_take_what_those_of_one_process_take() -> None:
    for name in ("clip_loss", "info_nce", "siglip_loss"):
        ours = inspect.signature(getattr(D, name)).parameters
        theirs = inspect.signature(getattr(losskit.functional, name)).parameters
        own = {key: value for key, value in ours.items() if key not in ("group", "max_batch")}
        assert {key: value.default for key, value in own.items()} == {key: v.default for key, v in theirs.items()}
        assert [value.kind for value in own.values()] == [value.kind for value in theirs.values()]
