"""The forward of a head: deferred logits while a patched model asks for them, its own otherwise."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from losskit.causal_lm.deferred import DeferredLogits, Origin
from losskit.errors import LosskitError, LosskitTypeError
from losskit.modules._head import check_head, parts_of


@dataclass(frozen=True)
class Running:
    """A call of a patched model that has not returned."""

    # None where it computes its logits.
    heads: tuple[nn.Module, ...]
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
        if call is None or self.head not in call.heads or len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            return self._compute(*args, **kwargs)
        try:
            _check(self.head)
            features, weight, bias = parts_of("patch_causal_lm", self.head, args[0])
        except LosskitError as error:
            call.report(str(error).removeprefix("patch_causal_lm: ").removesuffix("."))
            return self._compute(*args)
        return DeferredLogits(features, Origin(weight, bias, call.workspace, call.report))

    def _compute(self, *args: Any, **kwargs: Any) -> Any:
        return type(self.head).forward(self.head, *args, **kwargs)


def _check(head: nn.Module) -> None:
    """That nothing else wants to see the logits, and that the layer is one whose product can be left out."""
    check_head("patch_causal_lm", head)
    if any(m._forward_hooks or m._backward_hooks or m._backward_pre_hooks for m in head.modules()):
        raise LosskitTypeError("patch_causal_lm: the head has hooks, which would not run.")
    for name, parameter in head.named_parameters():
        # Sharded and quantised weights have classes of their own.
        if type(parameter.data) is not Tensor:
            raise LosskitTypeError(f"patch_causal_lm: {name} of the head is a {type(parameter.data).__name__}.")


def heads_of(model: Any) -> tuple[nn.Module, ...]:
    """The layers of which one computes the logits, as they are now: resized vocabularies and adapters replace them."""
    head = model.get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)
    # A head that peft trains beside its adapters: copies of it stand beside the original.
    return (head,) if copies is None else (head.original_module, *copies.values())


def install(head: nn.Module) -> bool:
    """Give the head such a forward; False where it has another of its own, as offloading gives it one."""
    found = vars(head).setdefault("forward", HeadForward(head))
    return isinstance(found, HeadForward)


def remove(head: nn.Module) -> None:
    if isinstance(vars(head).get("forward"), HeadForward):
        del vars(head)["forward"]
