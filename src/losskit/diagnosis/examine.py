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
    failures: list[str] = []
    if call is not None:
        with history.lock:
            history.checked += 1
            history.place = place
            failures += run(call, history, "before")
    result = original(*args, **kwargs)
    if call is not None and isinstance(result, Tensor):
        call.result = result
        with history.lock:
            failures += run(call, history, "after")
            if history.training_calls > FIRST_CALLS:
                conclude(history)
            # Where the call itself raised, its arguments made no sense to a check either.
            for text in failures:
                history.note(text)
    return result


def run(call: Call, history: History, stage: str) -> list[str]:
    """Add what the checks find; returns what failed."""
    failures = []
    with undisturbed():
        for check in CHECKS:
            step: Run | None = getattr(check, stage)
            if step is not None and call.function in check.functions:
                failure = collect(history, partial(step, call, history))
                if failure is not None:
                    failures.append(f"{call.place}: check {check.number} failed with {failure}")
    return failures


def conclude(history: History) -> None:
    """What can be told of all calls so far."""
    with history.lock, undisturbed():
        for check in CHECKS:
            if check.conclude is not None and not history.single:
                collect(history, partial(check.conclude, history))


def collect(history: History, findings: Callable[[], Iterator[Finding]]) -> str | None:
    try:
        found = list(findings())
    # A check meets tensors of every kind that there is; what it cannot read disturbs nobody.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for finding in found:
        history.add(finding)
    return None


@contextmanager
def undisturbed() -> Iterator[None]:
    """No graph, and no mode of the program sees what the checks compute."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield
