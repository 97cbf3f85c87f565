"""`losskit.diagnose`: one call, looked at from all sides."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from losskit.diagnosis.examine import examine
from losskit.diagnosis.finding import Place
from losskit.diagnosis.history import History
from losskit.diagnosis.interception import Interception, observing, public_namespaces, wrapped
from losskit.diagnosis.readable import obstacle
from losskit.diagnosis.report import Report
from losskit.diagnosis.site import user_line
from losskit.diagnosis.watched_code import namespaces_of
from losskit.errors import LosskitTypeError, LosskitValueError

__all__ = ["diagnose"]


def diagnose(criterion: Callable[..., Any], *args: Any, **kwargs: Any) -> Report:
    """Check a call of a loss for the faults that raise no error, and say how to mend them.

    The criterion is called once, on the same values outside your graph: nothing that you hold is changed, and no graph
    is consumed. Give it what the model puts out, not a copy, so that its graph can tell what came before the loss.

    **Args**: `criterion`: a loss module or function of `torch.nn`, `torch.nn.functional` or losskit, a subclass of one,
    or anything callable that calls them. The rest goes to it, `input` and `target` as a rule.

    **Returns**: a `Report` with its `findings`. Where the call raises an error that a finding explains, the error is in
    `report.error`.

    **Raises**: the error of the call, unchanged, where no finding explains it; TypeError where criterion cannot be
    called, ValueError where it calls no loss.

    **Example**:

    >>> import torch, losskit
    >>> logits = 10 * torch.eye(4)
    >>> report = losskit.diagnose(torch.nn.CrossEntropyLoss(), logits.softmax(1), torch.arange(4))
    >>> report.codes
    ('double-softmax',)
    >>> losskit.diagnose(torch.nn.CrossEntropyLoss(), logits.requires_grad_(), torch.arange(4)).codes
    ()
    """
    if isinstance(criterion, type) and issubclass(criterion, nn.Module):
        raise LosskitTypeError(
            f"diagnose: criterion is the class {criterion.__name__}; make one of it first: {criterion.__name__}()."
        )
    if not callable(criterion):
        raise LosskitTypeError(
            f"diagnose: criterion must be a loss module or function, got {type(criterion).__name__}."
        )
    histories: dict[str, History] = {}
    copies, origins = _copies(criterion, args, kwargs)

    def observe(name: str, original: Callable[..., Any], inner: tuple[Any, ...], options: dict[str, Any]) -> Any:
        history = histories.setdefault(name, History(single=True))
        history.count(1)
        return examine(history, Place(name, *user_line()), original, inner, options, origins)

    error: Exception | None = None
    failure: str | None = None
    with Interception([*public_namespaces(), *namespaces_of(criterion)]), observing(observe):
        try:
            result = wrapped(criterion)(*copies.args, **copies.keywords)
        # Told with the findings that explain it.
        except Exception as raised:
            error = raised
        else:
            failure = _backward(result, copies)
    findings = [finding for history in histories.values() for finding in history.findings()]
    notes = [note for history in histories.values() for note in history.notes]
    notes += [] if failure is None else [failure]
    if error is not None and not findings:
        raise error
    if not histories and error is None:
        raise LosskitValueError(
            f"diagnose: {_name(criterion)} calls no loss of torch.nn or losskit; give it the criterion that does."
        )
    return Report.of(findings, notes, error)


def _copies(
    criterion: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple["functools.partial[Any]", dict[int, Tensor]]:
    """The arguments with every tensor as a leaf over the same memory, and whose leaf it is."""
    origins: dict[int, Tensor] = {}
    # Its gradient would be written over the input, and a leaf cannot be written over.
    overwrites = bool(kwargs.get("inplace_backward") or getattr(criterion, "inplace_backward", False))

    def copy(value: Any) -> Any:
        # What cannot be read is not checked either, and a transform would not have it copied.
        if not isinstance(value, Tensor) or isinstance(value, nn.Parameter) or obstacle(value) is not None:
            return value
        leaf = value.detach()
        if value.requires_grad:
            leaf.requires_grad_()
        if overwrites and value.is_floating_point():
            leaf = leaf.clone()
        origins[id(leaf)] = value
        return leaf

    # It keeps the leaves, whose ids hold as long as they live.
    copied = functools.partial(criterion, *map(copy, args), **{name: copy(value) for name, value in kwargs.items()})
    return copied, origins


def _backward(result: Any, copies: "functools.partial[Any]") -> str | None:
    """The gradient by the copies, for the checks that wait for it; the reason where there is none."""
    if not isinstance(result, Tensor) or result.ndim > 0 or not result.requires_grad:
        return None
    leaves = [
        value
        for value in (*copies.args, *copies.keywords.values())
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    ]
    if not leaves:
        return None
    try:
        torch.autograd.grad(result, leaves, allow_unused=True)
    # The call itself went well.
    except RuntimeError as error:
        return f"the gradient: backward raises {type(error).__name__}: {error}"
    return None


def _name(criterion: Any) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)
