"""The call itself: what the loss returns, and its gradients by autograd."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.explanation.arguments import Request

# What a gradient is shown by.
_DIFFERENTIABLE = (
    "input",
    "input1",
    "input2",
    "anchor",
    "positive",
    "negative",
    "log_probs",
    "var",
    "linear_weight",
    "linear_bias",
    "query",
    "key",
    "negatives",
    "image_features",
    "text_features",
    "temperature",
    "logit_scale",
    "logit_bias",
)
# The explanation says these itself, in its own language.
_SAID = ("kl_div: reduction='mean' divides", r"\w+: target has shape .* broadcast to", "size_average and reduce are")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a call gave."""

    result: Tensor
    # Of the result, or of its sum where nothing was reduced.
    gradients: dict[str, Tensor]


def run(request: Request) -> Outcome:
    """Call the loss on copies of its tensors. The caller's are not written to, and neither are their gradients."""
    with torch.enable_grad(), warnings.catch_warnings():
        for message in _SAID:
            warnings.filterwarnings("ignore", message, UserWarning)
        leaves = {
            name: value.detach().clone().requires_grad_(True)
            for name, value in request.arguments.items()
            if name in _DIFFERENTIABLE
            and isinstance(value, Tensor)
            and (value.is_floating_point() or value.is_complex())
        }
        arguments = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in request.arguments.items()
        }
        # No leaf: inplace_backward refuses to overwrite one.
        arguments |= {name: leaf.clone() for name, leaf in leaves.items()}
        result = request.function(**arguments)
        if not isinstance(result, Tensor):
            # What return_stats gives beside the loss.
            result = result[0]
        gradients = {}
        if result.requires_grad:
            found = torch.autograd.grad(result.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
            gradients = dict(zip(leaves, found, strict=True))
        return Outcome(result.detach(), gradients)
