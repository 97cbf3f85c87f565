"""What stands in the graph of autograd before an input. Nothing here changes the graph."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["name_of", "producer"]

# Nodes that change the shape or the dtype, or choose some of the rows.
_VIEWS = {
    "Alias", "Clone", "Expand", "Index", "NumpyT", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "Squeeze",
    "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
MOST_VIEWS = 6


def name_of(node: Any) -> str:
    """The name of the operation: SoftmaxBackward0 is Softmax."""
    name = type(node).__name__
    return name.rstrip("0123456789").removesuffix("Backward")


def producer(tensor: Tensor | None, origins: Mapping[int, Tensor], node: Any = None) -> Any:
    """The node that computed `tensor`, or `node`, seen through at most six views and casts; None where it has none."""
    node = tensor.grad_fn if tensor is not None else node
    if node is None and tensor is not None and id(tensor) in origins:
        node = origins[id(tensor)].grad_fn
    views = 0
    while node is not None:
        variable = getattr(node, "variable", None) if name_of(node) == "AccumulateGrad" else None
        if variable is not None and id(variable) in origins:
            node = origins[id(variable)].grad_fn
        elif name_of(node) in _VIEWS and views < MOST_VIEWS:
            node = node.next_functions[0][0]
            views += 1
        else:
            break
    return node
