"""Which classes a rank holds, and what of a DTensor lies on it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from losskit.core import inputs
from losskit.distributed.groups import Group, process_group
from losskit.errors import LosskitRuntimeError, LosskitTypeError, LosskitValueError

__all__ = ["Shard", "local_of", "shard_of"]


@dataclass(frozen=True)
class Shard:
    """The classes [start, start + columns) of this rank; what its tensors hold beyond is padding."""

    # None: one process holds all classes.
    group: Any
    start: int
    columns: int
    # The number of all classes, where padding made the call tell it.
    vocab_size: int | None
    # The dimension of its mesh over which the classes of a DTensor are cut.
    mesh: Any = None
    mesh_dim: int = 0


def shard_of(
    function: str,
    name: str,
    tensor: Tensor,
    class_dim: int,
    vocab_start: int | None,
    vocab_size: int | None,
    group: Group,
) -> tuple[Tensor, Shard]:
    """What of `tensor` lies on this rank, and which classes these are."""
    if vocab_size is not None:
        inputs.check_int(function, "vocab_size", vocab_size)
        if vocab_size < 1:
            raise LosskitValueError(f"{function}: vocab_size must be at least 1, got {vocab_size}.")
    if not is_dtensor(tensor):
        if vocab_start is None:
            raise LosskitTypeError(
                f"{function}: vocab_start must say which class the first of this rank's {name} stands for; a DTensor "
                "knows."
            )
        inputs.check_int(function, "vocab_start", vocab_start)
        if vocab_start < 0:
            raise LosskitValueError(f"{function}: vocab_start must not be negative, got {vocab_start}.")
        columns = _without_padding(vocab_start, tensor.shape[class_dim], vocab_size)
        return tensor, Shard(process_group(function, group), vocab_start, columns, vocab_size)
    if vocab_start is not None or group is not None:
        raise LosskitTypeError(
            f"{function}: {name} is a DTensor, which knows its vocab_start and group: leave them out."
        )
    return _of_dtensor(function, name, tensor, class_dim, vocab_size)


def _of_dtensor(function: str, name: str, tensor: Any, class_dim: int, vocab_size: int | None) -> tuple[Tensor, Shard]:
    mesh, placements = tensor.device_mesh, tensor.placements
    cut = [dim for dim, placement in enumerate(placements) if placement.is_shard(class_dim)]
    others = [placement for dim, placement in enumerate(placements) if dim not in cut]
    # A subclass of Shard, such as a strided one, lays the classes out otherwise.
    if (
        len(cut) != 1
        or type(placements[cut[0]]).__name__ != "Shard"
        or any(placement.is_partial() for placement in others)
    ):
        raise LosskitRuntimeError(
            f"{function}: {name} must be cut along its classes over one dimension of its mesh, Shard({class_dim}), "
            f"got {tuple(placements)}."
        )
    local = tensor.to_local()
    # As torch.chunk cuts: every rank has as many as the first, until there are no more.
    classes, ranks = tensor.shape[class_dim], mesh.size(cut[0])
    start = min(-(-classes // ranks) * mesh.get_local_rank(cut[0]), classes)
    columns = _without_padding(start, local.shape[class_dim], vocab_size)
    return local, Shard(mesh.get_group(cut[0]), start, columns, vocab_size, mesh, cut[0])


def _without_padding(start: int, columns: int, vocab_size: int | None) -> int:
    return columns if vocab_size is None else min(max(vocab_size - start, 0), columns)


def local_of(function: str, name: str, tensor: Any, shard: Shard, sharded_dim: int | None = None) -> Any:
    """What of a tensor beside the scores lies on this rank: the same on all ranks, or cut as the classes are."""
    if not is_dtensor(tensor):
        return tensor
    placement = None
    if shard.mesh is not None and tensor.device_mesh == shard.mesh:
        placement = tensor.placements[shard.mesh_dim]
    elif tensor.device_mesh.ndim == 1:
        placement = tensor.placements[0]
    if placement is not None and (
        placement.is_replicate() or (sharded_dim is not None and placement.is_shard(sharded_dim))
    ):
        return tensor.to_local()
    cut = "" if sharded_dim is None else f" or cut along its classes, Shard({sharded_dim})"
    raise LosskitRuntimeError(
        f"{function}: {name} must be the same on every rank of the vocabulary's group, Replicate(){cut}, got "
        f"{tuple(tensor.placements)}."
    )


def is_dtensor(tensor: object) -> bool:
    # Named and not imported: a plain tensor must not cost the import of torch.distributed.tensor.
    return any(kind.__name__ == "DTensor" and kind.__module__.startswith("torch.") for kind in type(tensor).__mro__)
