"""The loss functions of torch.nn.functional and losskit.functional, with somebody who sees each call.

A. Each function has one wrapper. An `Interception` puts the wrappers in the place of the functions in some namespaces
   and takes them back; several may hold the same name, and the last to go restores it.
B. Who sees a call is set for a thread (`observing`) or for the whole process (`observing_everywhere`). Nobody sees
   what a loss computes inside.
C. torch.compile, torch.jit.script and pickle get the function itself.
"""

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch.nn import functional as torch_functional

from losskit import functional
from losskit.replace import FUNCTIONS

__all__ = ["Interception", "loaded_namespaces", "observing", "observing_everywhere", "public_namespaces", "wrapped"]

# Gets the name of the function, the function, and the arguments of the call; computes the loss.
Observer = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class _Pair(NamedTuple):
    original: Callable[..., Any]
    wrapper: Callable[..., Any]


_lock = threading.RLock()
_local = threading.local()
_everywhere: list[Observer] = []
# How many interceptions hold a name of a namespace.
_holds: dict[tuple[int, str], int] = {}


def _wrapper(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def loss(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(*args, **kwargs)
        observe = getattr(_local, "observer", None) or (_everywhere[-1] if _everywhere else None)
        if observe is None or getattr(_local, "inside", False):
            return original(*args, **kwargs)
        _local.inside = True
        try:
            return observe(name, original, args, kwargs)
        finally:
            _local.inside = False

    # torch.jit.script and torch.compile take what stands here instead of the wrapper.
    loss.__script_if_tracing_wrapper = True  # type: ignore[attr-defined]  # torch's mark
    loss.__original_fn = original  # type: ignore[attr-defined]  # and the other
    return loss


# By the id of the function and of its wrapper.
_pairs: dict[int, _Pair] = {}


def _wrap_all() -> None:
    """A wrapper for each function that has none: one may have taken another's place since the last time."""
    with _lock:
        for module in (torch_functional, functional):
            for name in FUNCTIONS:
                # Older versions of PyTorch lack some.
                original = getattr(module, name, None)
                if original is not None and id(original) not in _pairs:
                    pair = _Pair(original, _wrapper(name, original))
                    _pairs[id(original)] = _pairs[id(pair.wrapper)] = pair


def wrapped(function: Any) -> Any:
    """The wrapper of a loss function, also inside functools.partial; anything else as it is."""
    if isinstance(function, functools.partial):
        return functools.partial(wrapped(function.func), *function.args, **function.keywords)
    _wrap_all()
    pair = _pairs.get(id(function))
    return function if pair is None else pair.wrapper


def public_namespaces() -> list[dict[str, Any]]:
    """Where the modules of torch.nn and losskit take their functions from."""
    return [vars(torch_functional), vars(functional)]


def loaded_namespaces() -> list[dict[str, Any]]:
    """Every module of the program; what is imported later copies the names from these."""
    inside = ("losskit", "losskit.")
    others = [
        vars(module)
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and not (name == inside[0] or name.startswith(inside[1]))
    ]
    return [*others, vars(functional)]


class Interception:
    """The wrappers in the place of the functions, in some namespaces, until it is restored."""

    def __init__(self, namespaces: Iterable[dict[str, Any]]) -> None:
        self._held: list[tuple[dict[str, Any], str, _Pair]] = []
        seen: set[int] = set()
        public = {id(namespace) for namespace in public_namespaces()}
        with _lock:
            _wrap_all()
            for namespace in namespaces:
                if id(namespace) in seen:
                    continue
                seen.add(id(namespace))
                # There the functions have their own names.
                names = FUNCTIONS if id(namespace) in public else list(namespace)
                for name in names:
                    pair = _pairs.get(id(namespace.get(name)))
                    if pair is not None:
                        namespace[name] = pair.wrapper
                        key = (id(namespace), name)
                        _holds[key] = _holds.get(key, 0) + 1
                        self._held.append((namespace, name, pair))

    def restore(self) -> None:
        """Put the functions back. A name that has been given another value since keeps it."""
        with _lock:
            while self._held:
                namespace, name, pair = self._held.pop()
                key = (id(namespace), name)
                _holds[key] -= 1
                if _holds[key] == 0:
                    del _holds[key]
                    if namespace.get(name) is pair.wrapper:
                        namespace[name] = pair.original

    def __enter__(self) -> "Interception":
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Let `observer` see the calls of this thread."""
    before = getattr(_local, "observer", None)
    _local.observer = observer
    try:
        yield
    finally:
        _local.observer = before


@contextmanager
def observing_everywhere(observer: Observer) -> Iterator[None]:
    """Let `observer` see the calls of every thread that has no observer of its own."""
    _everywhere.append(observer)
    try:
        yield
    finally:
        _everywhere.remove(observer)
