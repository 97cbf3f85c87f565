"""The forward of a head: deferred logits while a patched model asks for them, its own otherwise."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from losskit.causal_lm.deferred import DeferredLogits, Formula, Origin
from losskit.causal_lm.layer import Layer, obstacle


@dataclass(frozen=True)
class Running:
    """A call of a patched model that has not returned."""

    # None: it computes its logits.
    head: nn.Module | None
    workspace: int | str
    report: Callable[[str], None]


class _State(threading.local):
    """Each thread has its own; torch.compile, which knows no context variables, follows it."""

    call: Running | None = None


state = _State()


class HeadForward:
    """In the place of `head.forward`; an object, so that it is copied and pickled with the head."""

    def __init__(self, head: nn.Module) -> None:
        self.head = head

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = state.call
        if call is None or call.head is not self.head or len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            return self._compute(*args, **kwargs)
        reason = obstacle(self.head)
        if reason is not None:
            call.report(reason)
            return self._compute(*args)
        hidden = args[0]
        layer = Layer(self.head.weight, self.head.bias)  # type: ignore[arg-type]  # obstacle has seen an nn.Linear
        return DeferredLogits(
            hidden, Formula(), Origin(layer, call.workspace, call.report), lambda: self._compute(hidden)
        )

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.head).forward(self.head, *args, **kwargs)


def install(head: nn.Module) -> bool:
    """Give the head such a forward; False where it has another of its own, as offloading gives it one."""
    found = vars(head).get("forward")
    if found is None:
        head.forward = HeadForward(head)
    return found is None or isinstance(found, HeadForward)


def remove(head: nn.Module) -> None:
    if isinstance(vars(head).get("forward"), HeadForward):
        del head.forward
