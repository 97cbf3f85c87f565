"""The weight and bias that a head multiplies by, where it does nothing but that."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """logits = hidden·Wᵀ + b."""

    weight: Tensor
    bias: Tensor | None

    @property
    def classes(self) -> int:
        return self.weight.shape[0]


def obstacle(head: nn.Module) -> str | None:
    """Why the logits of this head cannot be deferred, or None."""
    kind = type(head).__name__
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        return f"its head is of the class {kind}, not torch.nn.Linear"
    if type(head.weight.data) is not Tensor:
        return f"the weight of its head is of the class {type(head.weight.data).__name__}"
    if head._forward_hooks or head._backward_hooks or head._backward_pre_hooks:
        return "its head has hooks, which get them"
    return None
