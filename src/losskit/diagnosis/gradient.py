"""Hooks that read what backward hands on. They change no gradient, and hold nothing of the graph that holds them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from losskit.diagnosis.finding import Place
from losskit.diagnosis.history import History
from losskit.errors import LossWarning

__all__ = ["on_gradient_of_input", "on_gradient_of_result"]

Read = Callable[[Tensor], None]


def on_gradient_of_result(result: Tensor, read: Read, place: Place, history: History) -> None:
    """Call `read` with the gradient that reaches the loss, when backward comes."""
    if result.grad_fn is not None:
        result.grad_fn.register_prehook(_hook(read, result.output_nr, place, history))


def on_gradient_of_input(
    input: Tensor, origins: Mapping[int, Tensor], read: Read, place: Place, history: History
) -> None:
    """Call `read` with the whole gradient of `input`, when backward comes. A leaf of somebody else's is left alone."""
    if input.grad_fn is not None:
        input.grad_fn.register_prehook(_hook(read, input.output_nr, place, history))
    elif input.requires_grad and id(input) in origins:
        hook = _hook(read, 0, place, history)
        input.register_hook(lambda gradient: hook((gradient,)))


def _hook(read: Read, number: int, place: Place, history: History) -> Callable[[tuple[Any, ...]], None]:
    # It answers nothing: an answer would take the place of the gradient.
    def hook(gradients: tuple[Any, ...]) -> None:
        gradient = gradients[number]
        if not isinstance(gradient, Tensor):
            return
        try:
            read(gradient.detach())
        except LossWarning:
            raise
        # A gradient that cannot be read is noted, and backward goes on.
        except Exception as error:
            history.note(f"{place}: the gradient: {type(error).__name__}: {error}")

    return hook
