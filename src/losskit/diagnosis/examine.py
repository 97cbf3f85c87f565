"""Runs the checks over one call. Whatever happens in them, the call goes on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from losskit.diagnosis.call import Call, bind
from losskit.diagnosis.check import Run
from losskit.diagnosis.checks import CHECKS
from losskit.diagnosis.finding import Finding, Place
from losskit.diagnosis.history import FIRST_CALLS, History

__all__ = ["conclude", "examine"]


def examine(
    history: History,
    place: Place,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    origins: Mapping[int, Tensor] | None = None,
) -> Any:
    """Compute the loss as `original` does, errors included, with its arguments checked before and its result after.

    Who calls has counted the call in `history`.
    """
    arguments = bind(original, args, kwargs)
    call = None
    if arguments is not None:
        call = Call(place, arguments, torch.is_grad_enabled(), origins or {})
        if call.obstacle is not None:
            history.note(f"{place}: {call.obstacle}")
            call = None
    if call is not None:
        with history.lock:
            history.checked += 1
            history.place = place
            run(call, history, "before")
    result = original(*args, **kwargs)
    if call is not None and isinstance(result, Tensor):
        call.result = result
        with history.lock:
            run(call, history, "after")
            if history.training_calls > FIRST_CALLS:
                conclude(history)
    return result


def run(call: Call, history: History, stage: str) -> None:
    with undisturbed():
        for check in CHECKS:
            step: Run | None = getattr(check, stage)
            if step is not None and call.function in check.functions:
                collect(history, check.number, partial(step, call, history), call.place)


def conclude(history: History) -> None:
    """What can be told of all calls so far."""
    with history.lock, undisturbed():
        for check in CHECKS:
            if check.conclude is not None and not history.single:
                collect(history, check.number, partial(check.conclude, history), history.place)


def collect(history: History, number: int, findings: Callable[[], Iterator[Finding]], place: Place | None) -> None:
    try:
        found = list(findings())
    # A check reads tensors of every kind that there is; what it cannot read is noted, and disturbs nobody.
    except Exception as error:
        history.note(f"{place}: check {number} failed with {type(error).__name__}: {error}")
        return
    for finding in found:
        history.add(finding)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No graph, and no mode of the program sees what the checks compute."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield
