"""Hooks that read what backward hands on. They change no gradient, and hold nothing of the graph that holds them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["on_gradient_of_input", "on_gradient_of_result"]

Read = Callable[[tuple[Any, ...]], None]


def on_gradient_of_result(result: Tensor, read: Read) -> None:
    """Call `read` with the gradient that reaches the loss, when backward comes."""
    if result.grad_fn is not None:
        result.grad_fn.register_prehook(_reader(read))


def on_gradient_of_input(input: Tensor, origins: Mapping[int, Tensor], read: Read) -> None:
    """Call `read` with the whole gradient of `input`, when backward comes. A leaf of somebody else's is left alone."""
    if input.grad_fn is not None:
        place = input.output_nr
        input.grad_fn.register_prehook(_reader(lambda gradients: read((gradients[place],))))
    elif input.requires_grad and id(input) in origins:
        input.register_hook(lambda gradient: read((gradient,)))


def _reader(read: Read) -> Any:
    # A hook's answer would take the place of the gradient.
    def hook(gradients: tuple[Any, ...]) -> None:
        read(gradients)

    return hook
