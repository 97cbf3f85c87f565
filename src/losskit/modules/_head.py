"""The output layer of a model as features, weight and bias: what linear cross entropy takes."""

from typing import Any

import torch
from torch import Tensor, nn

from losskit.errors import LosskitRuntimeError, LosskitTypeError


def is_linear(layer: object) -> bool:
    """Whether it multiplies by its weight, adds its bias, and no more; the weight may be parametrized or tied."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def check_head(function: str, head: object) -> None:
    if not is_linear(head) and not is_linear(_base_of(head)):
        raise LosskitTypeError(
            f"{function}: head must be an nn.Linear, or one that LoRA wraps, got {type(head).__name__}: "
            "losskit.functional.linear_cross_entropy takes any weight."
        )


def parts_of(function: str, head: Any, input: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, weight and bias whose linear map gives the scores that `head(input)` gives."""
    base = head if is_linear(head) else _base_of(head)
    for module in {head, base}:
        if module._forward_hooks or module._forward_pre_hooks:
            raise LosskitRuntimeError(f"{function}: the head has forward hooks, which would not run: remove them?")
    if base is head:
        return input, head.weight, head.bias
    if head.disable_adapters and head.merged:
        head.unmerge()
    adapters = [] if head.disable_adapters or head.merged else [a for a in head.active_adapters if a in head.lora_A]
    features, weights, bias = [input], [base.weight], base.bias
    for adapter in adapters:
        if getattr(head, "use_dora", {}).get(adapter, False) or adapter in getattr(head, "lora_variant", {}):
            raise LosskitTypeError(f"{function}: adapter {adapter!r} of the head is a variant of LoRA that is no sum.")
        down, up, scaling = head.lora_A[adapter], head.lora_B[adapter], head.scaling[adapter]
        # x·Wᵀ + s·(x·Aᵀ)·Bᵀ is one product, of (x, s·x·Aᵀ) and (W, B).
        low = down(head.lora_dropout[adapter](input.to(down.weight.dtype))) * scaling
        features.append(low.to(input.dtype))
        weights.append(up.weight.to(base.weight.dtype))
        if up.bias is not None:
            added = up.bias * scaling
            bias = added if bias is None else bias + added
    if not adapters:
        return input, base.weight, bias
    return torch.cat(features, -1), torch.cat(weights, 1), bias


def _base_of(head: object) -> Any:
    """The layer that LoRA wraps, as `peft` does it, or None."""
    layer: Any = head
    parts = ("base_layer", "lora_A", "lora_B", "lora_dropout", "scaling", "active_adapters", "disable_adapters")
    return layer.base_layer if all(hasattr(layer, part) for part in parts) else None
