"""What is sent between ranks, as torch's dispatcher sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Collectives(TorchDispatchMode):
    """The names of the collectives that start while it is entered, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "c10d" or (func.namespace == "_c10d_functional" and name != "wait_tensor"):
            self.names.append(name.strip("_"))
        return func(*args, **(kwargs or {}))


def rounding(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """The relative error in the 2-norm."""
    return float((ours.double() - exact).norm() / exact.norm())
