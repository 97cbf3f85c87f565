"""The numbers of all shards, brought together: by one all-gather, or by two all-reduces where it would be large."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from losskit.core import inputs
from losskit.distributed.groups import size_of
from losskit.distributed.rows import LocalRows
from losskit.distributed.shards import Shard
from losskit.errors import LosskitValueError

__all__ = ["GATHERED_BYTES", "AllRows", "all_gather", "bring_together"]

# Up to how many bytes of the numbers of all shards it is one all-gather. Over W ranks a rank takes in W·k·N numbers by
# an all-gather, and about 2·k·N by two all-reduces, of which the second waits for the first. With 5 µs for a message
# and 50 GB/s the two take as long at about 4 MiB (python -m benchmarks.collectives).
GATHERED_BYTES = 1 << 22
# Vocabularies are counted in two digits of this base, because float32 has whole numbers up to 2**24 alone.
_BASE = 1 << 12
# Combined by the larger; the others are sums.
_HIGHEST = ("highest", "own")


@dataclass
class AllRows:
    """What is known of each row when all shards have spoken, (N) each, in float64 where there is float64."""

    highest: Tensor
    sum_of_exp: Tensor
    own: Tensor | None
    own_weight: Tensor | None
    below: Tensor | None
    mass: Tensor | None
    expected_below: Tensor | None
    entropy: Tensor | None
    plain_mass: Tensor | None
    plain_below: Tensor | None
    best_score: Tensor | None
    # 0-dim: the number of classes, and the sum of their weights.
    classes: Tensor
    weight: Tensor
    # (W, 2): where each shard begins and how many classes it has.
    shards: Tensor

    @property
    def log_sum(self) -> Tensor:
        """log Σ exp(x − m): with `highest`, the log-sum-exp in two parts."""
        return self.sum_of_exp.log()


def bring_together(function: str, rows: LocalRows, shard: Shard, weight: Tensor | None) -> AllRows:
    """What all shards know. The same bits on every rank."""
    named = rows.named()
    columns = torch.stack(list(named.values()))  # (k, N)
    ranks = size_of(shard.group)
    own_header = _header(shard, weight, columns)
    exact = columns.dtype if columns.device.type == "mps" else torch.float64
    # The highest probability's score is no sum, and comes with that of its rank alone.
    if rows.best is None and ranks * columns.numel() * columns.element_size() > GATHERED_BYTES:
        return _by_all_reduce(function, named, own_header, shard, exact)
    packed = torch.cat([own_header, columns.flatten()])
    gathered = packed.unsqueeze(0) if shard.group is None else all_gather(packed, shard.group).reshape(ranks, -1)
    headers = gathered[:, : len(own_header)].to(exact)
    parts = gathered[:, len(own_header) :].reshape(ranks, *columns.shape).to(exact)  # (W, k, N)
    by_name = dict(zip(named, parts.unbind(1), strict=True))
    highest = {name: by_name[name].amax(0) for name in _HIGHEST if name in by_name}
    sums = {
        name: value.sum(0) for name, value in _relative(by_name, highest["highest"], headers[:, -1:], exact).items()
    }
    if "best" in by_name:
        first = by_name["best"].max(0).indices.unsqueeze(0)
        sums["best_score"] = by_name["best_score"].gather(0, first).squeeze(0)
    return _all_rows(function, highest, sums, headers)


def all_gather(tensor: Tensor, group: Any) -> Tensor:
    """The tensors of all ranks, one after another along the first axis."""
    gathered = tensor.new_empty((size_of(group) * tensor.shape[0], *tensor.shape[1:]))
    # Renamed in PyTorch 2.13.
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
    gather(gathered, tensor.contiguous(), group=group)
    return gathered


def _by_all_reduce(
    function: str, named: dict[str, Tensor], own_header: Tensor, shard: Shard, exact: torch.dtype
) -> AllRows:
    names = [name for name in _HIGHEST if name in named]
    largest = torch.stack([named[name] for name in names])
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX, group=shard.group)
    highest = dict(zip(names, largest, strict=True))
    relative = _relative(named, highest["highest"], own_header[-1], own_header.dtype)
    rank, ranks = distributed.get_rank(shard.group), size_of(shard.group)
    headers = own_header.new_zeros(ranks, len(own_header))
    headers[rank] = own_header
    packed = torch.cat([headers.flatten(), *relative.values()])
    distributed.all_reduce(packed, group=shard.group)
    headers = packed[: headers.numel()].reshape(ranks, -1).to(exact)
    sums = packed[headers.numel() :].reshape(len(relative), -1).to(exact)
    return _all_rows(
        function,
        {name: value.to(exact) for name, value in highest.items()},
        dict(zip(relative, sums, strict=True)),
        headers,
    )


def _relative(rows: dict[str, Tensor], highest: Tensor, weight: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The sums of a shard, or of each, relative to the highest score of all shards, so that they add up.

    Σ w·(M − x) = Σ w·(m − x) + (M − m)·Σ w, and Σ exp(x − M)·f = exp(m − M)·Σ exp(x − m)·f.
    """
    own = rows["highest"]
    factor = torch.exp(own - highest)
    # The sums of a shard in which every score is −inf are relative to 0.
    distance = highest - own.masked_fill(own == float("-inf"), 0)
    found = {"sum_of_exp": rows["sum_of_exp"] * factor}
    for name in ("own_weight", "mass", "plain_mass"):
        if name in rows:
            found[name] = rows[name]
    if "below" in rows:
        found["below"] = rows["below"] + weight * distance
    if "expected_below" in rows:
        found["expected_below"] = rows["expected_below"] + rows["mass"] * distance
    if "plain_below" in rows:
        found["plain_below"] = rows["plain_below"] + rows["plain_mass"] * distance
    if "entropy" in rows:
        found["entropy"] = factor * (rows["entropy"] + rows["sum_of_exp"] * distance)
    return {name: value.to(dtype) for name, value in found.items()}


def _header(shard: Shard, weight: Tensor | None, like: Tensor) -> Tensor:
    """Where the shard begins, how many classes it has, and the sum of their weights."""
    numbers = [*divmod(shard.start, _BASE), *divmod(shard.columns, _BASE)]
    total = like.new_full((), shard.columns) if weight is None else weight.sum().to(like.dtype)
    return torch.cat([torch.tensor(numbers, dtype=like.dtype, device=like.device), total.reshape(1)])


def _all_rows(function: str, highest: dict[str, Tensor], sums: dict[str, Tensor], headers: Tensor) -> AllRows:
    shards = torch.stack([headers[:, 0] * _BASE + headers[:, 1], headers[:, 2] * _BASE + headers[:, 3]], 1)
    _check_cover(function, shards)
    names = (
        "own_weight",
        "below",
        "mass",
        "expected_below",
        "entropy",
        "plain_mass",
        "plain_below",
        "best_score",
    )
    return AllRows(
        highest=highest["highest"],
        sum_of_exp=sums["sum_of_exp"],
        own=highest.get("own"),
        **{name: sums.get(name) for name in names},
        classes=shards[:, 1].sum(),
        weight=headers[:, -1].sum(),
        shards=shards,
    )


def _check_cover(function: str, shards: Tensor) -> None:
    """The shards are a vocabulary: each class in one of them. All ranks see the same and raise together."""
    if shards.device.type != "cpu":
        # Reading them would make the device wait.
        return
    expected = 0
    for start, columns in sorted((int(start), int(columns)) for start, columns in shards.tolist() if columns):
        if start != expected:
            listed = ", ".join(f"[{int(begin)}, {int(begin + size)})" for begin, size in shards.tolist())
            raise LosskitValueError(
                f"{function}: the shards of the ranks must cover the classes from 0 on, each once, got {listed}: is "
                "vocab_start right?"
            )
        expected = start + columns


def check_labels(function: str, target: Tensor, all_rows: AllRows, counts: Tensor) -> None:
    """Each class index that counts belongs to some shard. All ranks see the same and raise together."""
    if target.device.type == "cpu":
        inputs.check_class_range(function, target, int(all_rows.classes), counts)
