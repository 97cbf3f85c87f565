"""Gradients that wait for their backward pass."""

from weakref import WeakValueDictionary

import torch
from torch import Tensor


class _Owner(bytearray):
    """The memory of a byte, which owns the gradients."""

    gradients: list[Tensor | None] | None


# By the address of the byte. A copy of the byte has another.
_owners: WeakValueDictionary[int, _Owner] = WeakValueDictionary()


def keep(*gradients: Tensor | None) -> Tensor:
    """The byte that owns these gradients."""
    owner = _Owner(1)
    owner.gradients = list(gradients)
    byte = torch.frombuffer(owner, dtype=torch.uint8)
    _owners[byte.data_ptr()] = owner
    return byte


def take(byte: Tensor) -> list[Tensor | None] | None:
    """What `keep` was given, once; None where it is gone."""
    owner = _owners.get(byte.data_ptr())
    if owner is None:
        return None
    # The only references: the caller may write to them.
    gradients, owner.gradients = owner.gradients, None
    return gradients
