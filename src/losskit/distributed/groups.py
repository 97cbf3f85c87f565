"""Which ranks take part: what a call names as `group`, read once."""

from typing import Any

import torch
from torch import distributed

from losskit.errors import LosskitRuntimeError, LosskitTypeError, LosskitValueError

__all__ = ["Group", "process_group", "size_of", "transport_device"]

# A ProcessGroup, a DeviceMesh of one dimension, or None. Not spelled out: torch may be built without them.
Group = Any


def process_group(function: str, group: Group) -> Any:
    """The process group that `group` names; None where there is one process and no process group."""
    if not distributed.is_available():
        if group is not None:
            raise LosskitRuntimeError(f"{function}: group needs torch.distributed, which this build of torch lacks.")
        return None
    if group is None:
        return distributed.group.WORLD if distributed.is_initialized() else None
    if isinstance(group, distributed.ProcessGroup):
        return group
    # torch hands it to ranks that do not belong to the group that they have made.
    if group is distributed.GroupMember.NON_GROUP_MEMBER:
        raise LosskitValueError(f"{function}: this rank does not belong to group.")
    # Not at the head of the module: it does not exist where torch has no distributed.
    from torch.distributed.device_mesh import DeviceMesh

    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise LosskitValueError(
                f"{function}: group must be a DeviceMesh of one dimension, got {group.ndim} "
                f"({', '.join(group.mesh_dim_names or ()) or 'without names'}): name one, or flatten those over which "
                "the data differ."
            )
        return group.get_group()
    raise LosskitTypeError(
        f"{function}: group must be a ProcessGroup, a DeviceMesh of one dimension or None, got {type(group).__name__}."
    )


def size_of(group: Any) -> int:
    """How many ranks a process group has; 1 where there is none."""
    return 1 if group is None else distributed.get_world_size(group)


def transport_device(group: Any, device: torch.device) -> torch.device:
    """`device` where the group can send from it, else the device that it can send from."""
    if group is None or device.type != "cpu" or "nccl" not in distributed.get_backend(group):
        return device
    # NCCL next to Gloo leaves the CPU to Gloo.
    if "gloo" in distributed.get_backend_config(group):
        return device
    return torch.device("cuda", torch.cuda.current_device())
