"""global_count and GlobalMean: what is counted, in one process and in several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import distributed

import losskit
from distributed.ranks import on_ranks
from losskit import errors
from losskit.distributed import GlobalMean, PendingCount, global_count

LABELS = torch.tensor([[3, -100, 1], [0, 2, -100]])
WEIGHT = torch.tensor([0.25, 1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"target": LABELS}, 4),
        ({"target": [LABELS, LABELS[0]]}, 6),
        ({"target": iter([LABELS, LABELS[0]])}, 6),
        ({"target": LABELS.to(torch.uint8), "ignore_index": 2}, 5),
        ({"target": LABELS, "ignore_index": 0}, 5),
        ({"target": LABELS, "weight": WEIGHT}, 4 + 1 + 0.25 + 2),
        ({"target": LABELS, "mask": torch.tensor([True, True, False])}, 3),
        ({"target": LABELS, "mask": [torch.tensor([[False], [True]])]}, 2),
        ({"target": [LABELS, LABELS], "mask": [None, torch.tensor([[False], [True]])]}, 6),
        ({"target": LABELS, "sample_weight": torch.tensor([0.5, float("nan"), 2.0]), "mask": LABELS != 2}, 3),
        ({"target": LABELS, "sample_weight": torch.tensor([[0.5], [2.0]]), "weight": WEIGHT}, 2.5 + 4.5),
        ({"target": LABELS, "shift": 1}, 2),
        ({"target": LABELS, "shift": 1, "weight": WEIGHT}, 3),
        ({"target": LABELS, "shift": 1, "mask": torch.tensor([True, True, False])}, 1),
        ({"target": LABELS, "shift": 7}, 1),
        ({"target": LABELS != 3}, 5),
        ({"target": 12}, 12),
        ({"target": [12, 2.5, torch.tensor(0.5)]}, 15),
        ({"target": torch.full((3,), -100)}, 1),
        ({"target": []}, 1),
        ({"target": torch.empty(0, dtype=torch.int64)}, 1),
        # Weights may add up to less than 1: that is no empty batch.
        ({"target": torch.tensor([0]), "weight": WEIGHT}, 0.25),
    ],
)
def test_what_is_counted(arguments: dict[str, Any], expected: float) -> None:
    total = global_count(**arguments)
    assert total.dtype == torch.float64
    assert total.shape == ()
    assert float(total) == expected


def test_a_count_goes_beyond_the_whole_numbers_of_float32() -> None:
    assert float(global_count([2**24, torch.tensor([1])])) == 2**24 + 1


def test_asynchronous() -> None:
    pending = global_count(LABELS, async_op=True)
    assert isinstance(pending, PendingCount)
    assert float(pending.wait()) == float(pending.wait()) == 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: global_count(torch.rand(3)),
            TypeError,
            "global_count: target must hold class indices or be bool, got float32: target.numel() where every value "
            "counts, len(target) for class probabilities, or mask.",
        ),
        (
            lambda: global_count((LABELS != -100).sum()),
            TypeError,
            "global_count: target is a 0-dim int64 tensor: target.reshape(1) for a class index, target.double() for a "
            "count.",
        ),
        (
            lambda: global_count("abc"),
            TypeError,
            "global_count: target must be a tensor, a number, or an iterable of them, got str.",
        ),
        (
            lambda: global_count(LABELS, weight=WEIGHT[:2]),
            IndexError,
            "global_count: 2 of 6 targets lie outside [0, 2): {2, 3}, first at index 0. min=0, max=3: 2 is the size of "
            "the class dimension of input.",
        ),
        (
            lambda: global_count(LABELS > 0, weight=WEIGHT),
            TypeError,
            "global_count: weight needs class indices, but target is bool.",
        ),
        (
            lambda: global_count(12, mask=LABELS > 0),
            TypeError,
            "global_count: mask needs class indices or a bool tensor, but target is a number.",
        ),
        (
            lambda: global_count([LABELS, LABELS], mask=LABELS > 0),
            RuntimeError,
            "global_count: mask must hold one tensor for each of the 2 micro-batches, got 1.",
        ),
        (
            lambda: global_count(-3),
            ValueError,
            "global_count: a number of losses must be finite and not negative, got -3.",
        ),
        (lambda: global_count(LABELS, shift=-1), ValueError, "global_count: shift must not be negative, got -1."),
        (
            lambda: global_count(LABELS, group="world"),
            TypeError,
            "global_count: group must be a ProcessGroup, a DeviceMesh of one dimension or None, got str.",
        ),
        (
            lambda: GlobalMean().normalizer,
            RuntimeError,
            "GlobalMean: count(targets) must come before normalizer and total.",
        ),
        (
            lambda: GlobalMean(loss_divided_by=0),
            ValueError,
            "GlobalMean: loss_divided_by must be positive and finite, got 0.",
        ),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
    assert isinstance(raised.value, errors.LosskitError)


def test_a_normalizer_leaves_the_kernels_their_calls() -> None:
    mean = GlobalMean()
    mean.count(LABELS)
    scores, labels = torch.randn(6, 4, requires_grad=True), LABELS.flatten()
    values, layer = torch.rand(6, 4), (torch.randn(6, 3), torch.randn(4, 3), labels)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (losskit.functional.cross_entropy, (scores, labels)),
        (losskit.functional.linear_cross_entropy, layer),
        (losskit.functional.mse_loss, (scores, values)),
        (losskit.functional.kl_div, (scores, values)),
    ]
    for function, arguments in calls:
        extra = {"reduction": "sum"} if function is losskit.functional.kl_div else {}
        dispatch = losskit.explain_dispatch(function, *arguments, normalizer=mean.normalizer, **extra)
        assert dispatch.backend == ("cpu" if losskit.kernels.cpu.available() else "reference"), dispatch.reason
        if function is losskit.functional.linear_cross_entropy and dispatch.backend == "cpu":
            assert "chunk" in dispatch.reason
        ours, sum_ = function(*arguments, normalizer=mean.normalizer, **extra), function(*arguments, reduction="sum")
        torch.testing.assert_close(ours, sum_ / 4)


def counts_on_a_rank() -> dict[str, float]:
    rank, size = distributed.get_rank(), distributed.get_world_size()
    # The last rank has nothing that counts, the first two micro-batches more than the others.
    targets = [torch.arange(rank + 1)] * (3 if rank == 0 else 1) if rank < size - 1 else [torch.tensor([-100])]
    pair = distributed.new_group([0, 1])
    mesh = distributed.device_mesh.init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("dp", "tp"))
    mean, added = GlobalMean(), GlobalMean(gradients_divided_by=1, loss_divided_by=3)
    mean.count(targets)
    added.count(targets)
    found = {
        "all": float(global_count(targets)),
        "none": float(global_count([torch.tensor([-100])])),
        "along dp": float(global_count(targets, group=mesh["dp"])),
        "averaged": float(mean.normalizer),
        "added": float(added.normalizer),
        "total": float(mean.total),
    }
    if rank < 2:
        found["pair"] = float(global_count(targets, group=pair))
    else:
        with pytest.raises(ValueError, match="this rank does not belong to group"):
            global_count(targets, group=pair)
    with pytest.raises(ValueError, match="must be a DeviceMesh of one dimension, got 2"):
        global_count(targets, group=mesh)
    return found


def test_counts_of_several_ranks() -> None:
    found = on_ranks(4, counts_on_a_rank)
    for rank, counts in enumerate(found):
        assert counts["all"] == 3 + 2 + 3
        assert counts["none"] == 1
        # Ranks 0 and 2, and 1 and 3, hold the same half of a model each.
        assert counts["along dp"] == (6 if rank % 2 == 0 else 2)
        assert counts["averaged"] == 8 / 4
        assert counts["added"] == 8 / 3
        assert counts["total"] == 8
        assert counts.get("pair") == (5 if rank < 2 else None)
