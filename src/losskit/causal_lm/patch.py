"""One model with a loss that needs no logits, and without it again."""

import inspect
import warnings
from types import MethodType, TracebackType
from typing import Any, TypeVar

from torch import nn

from losskit.causal_lm.deferred import DeferredLogits
from losskit.causal_lm.head import Running, heads_of, install, remove, state
from losskit.core import inputs
from losskit.errors import LosskitRuntimeError, LosskitTypeError

Model = TypeVar("Model", bound=nn.Module)


def patch_causal_lm(model: Model, *, workspace: int | str = "256MiB", eval_logits: bool = False) -> Model:
    """Let a causal language model of Hugging Face transformers compute its loss without its logits.

    A call with `labels` then runs the forward of the model as it is, except that the product with the head and cross
    entropy become one `losskit.functional.linear_cross_entropy`: the same loss and gradients, and the logits of no more
    positions than fit into `workspace` exist at a time. The `logits` of its output are None, unless the call says
    `return_logits=True`; then, and without labels, it is the call of the unpatched model. Scaled and capped logits,
    `num_items_in_batch`, `shift_labels` and losses that the model adds are what they were. A model that does something
    else with its logits gets them, and says once that this saves no memory.

    Only this object changes: not its parameters, not its `state_dict`, not its class. Copies and pickles of it are
    patched too.

    **Args**: `model`: has `get_output_embeddings()` and a forward that takes `labels`; a `PeftModel` around one too.
    `workspace`: how much memory the logits may take at a time, a number of bytes or a text such as "256MiB".
    `eval_logits`: whether the model returns its logits in evaluation mode without being asked to, as a
    `transformers.Trainer` that has `compute_metrics` needs it.

    **Returns**: the model. A model that is patched already only gets the options.

    **Raises**: TypeError for anything but a model with an output layer and labels.

    **Example**:

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=1000, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...                      num_attention_heads=1)
    >>> model = patch_causal_lm(LlamaForCausalLM(config))
    >>> tokens = torch.arange(10).unsqueeze(0)
    >>> output = model(tokens, labels=tokens)
    >>> output.logits is None
    True
    >>> torch.allclose(output.loss, model(tokens, labels=tokens, return_logits=True).loss)
    True
    """
    name = "patch_causal_lm"
    inputs.bytes_of(name, "workspace", workspace)
    inputs.check_bool(name, "eval_logits", eval_logits)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(model, nn.Module) or not isinstance(head, nn.Module) or not _takes_labels(model):
        raise LosskitTypeError(
            f"{name}: model must be a language model with get_output_embeddings() and a forward that takes labels, got "
            f"{type(model).__name__}."
        )
    forward = _patch_of(model)
    if forward is None:
        forward = vars(model)["forward"] = ModelForward(model)
    forward.workspace = workspace
    forward.eval_logits = eval_logits
    return model


def unpatch_causal_lm(model: nn.Module) -> "Unpatched":
    """Give a model its own forward back, at once.

    **Args**: `model`: the one that `patch_causal_lm` got. One that is not patched stays as it is.

    **Returns**: something to be used with `with`, which patches the model again at the end of the block, as it was;
    without `with` it means nothing.

    **Raises**: RuntimeError where something else has replaced the forward of the model since it was patched.

    **Example**:

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = patch_causal_lm(LlamaForCausalLM(LlamaConfig(
    ...     vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)))
    >>> tokens = torch.arange(4).unsqueeze(0)
    >>> with unpatch_causal_lm(model):
    ...     model(tokens, labels=tokens).logits.shape
    torch.Size([1, 4, 8])
    >>> model(tokens, labels=tokens).logits is None
    True
    """
    return Unpatched(model)


class Unpatched:
    """What `unpatch_causal_lm` took away."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._forward = _patch_of(model)
        if self._forward is not None:
            self._forward.remove()
            return
        found = vars(model).get("forward")
        if found is not None and isinstance(inspect.unwrap(found, stop=_is_ours), ModelForward):
            raise LosskitRuntimeError(
                "unpatch_causal_lm: the forward of model must be the one that patch_causal_lm gave this "
                f"{type(model).__name__}, got another around it: undo that first."
            )

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._forward is not None:
            patch_causal_lm(self._model, workspace=self._forward.workspace, eval_logits=self._forward.eval_logits)


class ModelForward:
    """In the place of `model.forward`; an object, so that it is copied and pickled with the model."""

    workspace: int | str
    eval_logits: bool

    # Models have methods that nn.Module has not.
    def __init__(self, model: Any) -> None:
        self._model = model
        # What had taken the place of the class's forward before, as accelerate does it.
        self._replaced = vars(model).get("forward")
        self._place = _place_of_labels(model)
        self._told = False

    def __call__(self, *args: Any, return_logits: bool | None = None, **kwargs: Any) -> Any:
        # accelerate binds a forward to the model when it takes it out of mixed precision.
        if args and args[0] is self._model:
            args = args[1:]
        labels = kwargs.get("labels") if self._place is None or self._place >= len(args) else args[self._place]
        # Within a patched model around this one, such as a PeftModel, that one's call decides.
        if labels is None or state.call is not None:
            return self._original(*args, **kwargs)
        if return_logits is None:
            return_logits = self.eval_logits and not self._model.training
        state.call = Running(() if return_logits else self._heads(), self.workspace, self._report)
        try:
            output = self._original(*args, **kwargs)
        finally:
            state.call = None
        return output if return_logits else _without_logits(output)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the model, which transformers reads, and return_logits."""
        signature = inspect.signature(self._replaced or MethodType(type(self._model).forward, self._model))
        extra = inspect.Parameter("return_logits", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = list(signature.parameters.values())
        end = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        return signature.replace(parameters=[*parameters[:end], extra, *parameters[end:]])

    def remove(self) -> None:
        for head in heads_of(self._model):
            remove(head)
        if self._replaced is None:
            del vars(self._model)["forward"]
        else:
            vars(self._model)["forward"] = self._replaced

    def _original(self, *args: Any, **kwargs: Any) -> Any:
        if self._replaced is not None:
            return self._replaced(*args, **kwargs)
        return type(self._model).forward(self._model, *args, **kwargs)

    def _heads(self) -> tuple[nn.Module, ...]:
        heads = heads_of(self._model)
        if all(install(head) for head in heads):
            return heads
        self._report("something else has replaced the forward of its head")
        return ()

    def _report(self, reason: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(
                f"patch_causal_lm: {type(self._model).__name__} computes all its logits, which is right and saves no "
                f"memory: {reason}.",
                UserWarning,
                stacklevel=2,
            )


def _patch_of(model: nn.Module) -> ModelForward | None:
    found = vars(model).get("forward")
    found = getattr(found, "__func__", found)
    return found if isinstance(found, ModelForward) else None


def _is_ours(forward: Any) -> bool:
    return isinstance(forward, ModelForward)


def _place_of_labels(model: nn.Module) -> int | None:
    """Where labels stand among the positional arguments of forward; None where they have a keyword alone."""
    for place, parameter in enumerate(inspect.signature(model.forward).parameters.values()):
        if parameter.name == "labels" and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            return place
    return None


def _takes_labels(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == "labels" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _without_logits(output: Any) -> Any:
    """What a forward returned, with None in the place of its logits."""
    if isinstance(output, DeferredLogits):
        return None
    if isinstance(output, dict):
        # Those that were computed after all too, so that what a call returns depends on the call alone.
        changed = {name: None if name == "logits" else _without_logits(value) for name, value in output.items()}
        # The outputs of transformers are dictionaries and dataclasses, and made of keywords.
        return output if all(changed[name] is output[name] for name in output) else type(output)(**changed)
    if type(output) is tuple:
        return tuple(_without_logits(value) for value in output)
    return output
