"""How many steps the optimizers of the program make, which tells a batch from a micro-batch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

__all__ = ["counting_steps", "start_counting", "steps", "stop_counting"]

_steps = 0
_users = 0
_lock = threading.Lock()
_handle: "torch.utils.hooks.RemovableHandle | None" = None


def steps() -> int:
    """The steps that optimizers have made while somebody counted."""
    return _steps


def start_counting() -> None:
    global _users, _handle
    with _lock:
        _users += 1
        if _handle is None:
            _handle = register_optimizer_step_post_hook(_count)


def stop_counting() -> None:
    global _users, _handle
    with _lock:
        _users -= 1
        if _users == 0 and _handle is not None:
            _handle.remove()
            _handle = None


@contextmanager
def counting_steps() -> Iterator[None]:
    start_counting()
    try:
        yield
    finally:
        stop_counting()


def _count(*_: object) -> None:
    global _steps
    _steps += 1
