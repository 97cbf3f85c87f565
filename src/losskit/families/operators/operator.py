"""What every operator is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from losskit.errors import LosskitRuntimeError


@dataclass(frozen=True)
class Operator:
    """A loss and its gradient as operators.

    `forward` takes the tensors, the options, out_dtype and which gradients will be wanted; `backward` takes
    grad_output, the owner of the kept gradients, the tensors and the options.
    """

    name: str
    # As the schema lists them.
    tensors: str
    options: str
    forward: Callable[..., tuple[Tensor, Tensor]]
    fake: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., Any]
    fake_backward: Callable[..., Any]
    # From (ctx, grad_output) to the gradients by the tensors, as many as there can be one by.
    differentiate: Callable[[Any, Tensor], list[Tensor | None]]
    # Whether there can be a gradient by several tensors, which `backward` gives as a list. Then the last argument, of
    # both, is a list that tells which are needed, and else, of `forward` alone, a bool.
    several: bool = False
    # Torch's dispatch key of what runs: the kernels on the CPU, or torch's own operations wherever the tensors are.
    key: str = "CPU"


def register(library: Library, operator: Operator) -> None:
    name = operator.name
    arguments = f"{operator.tensors}, {operator.options}"
    if operator.several:
        library.define(f"{name}({arguments}, ScalarType out_dtype, bool[] needs) -> (Tensor, Tensor)")
        library.define(f"{name}_backward(Tensor grad_output, Tensor owner, {arguments}, bool[] needs) -> Tensor[]")
    else:
        library.define(f"{name}({arguments}, ScalarType out_dtype, bool needs_grad) -> (Tensor, Tensor)")
        library.define(f"{name}_backward(Tensor grad_output, Tensor owner, {arguments}) -> Tensor")
    library.impl(name, operator.forward, operator.key)
    library.impl(f"{name}_backward", operator.backward, operator.key)
    register_fake(f"losskit::{name}", operator.fake, lib=library)
    register_fake(f"losskit::{name}_backward", operator.fake_backward, lib=library)

    tensors = operator.tensors.count(",") + 1

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.arguments = len(inputs)
        # Without out_dtype and what is needed.
        ctx.options = inputs[tensors:-2]
        ctx.save_for_backward(output[1], *inputs[:tensors])

    def differentiate(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        gradients = operator.differentiate(ctx, grad_output)
        return *gradients, *[None] * (ctx.arguments - len(gradients))

    register_autograd(f"losskit::{name}", differentiate, setup_context=save, lib=library)
    register_autograd(f"losskit::{name}_backward", _no_second_derivative, lib=library)


def _no_second_derivative(ctx: Any, *_: Any) -> Any:
    raise LosskitRuntimeError(
        "a loss that torch.compile has taken into its graph as an operator has no second derivative: "
        "backend='reference' has."
    )
