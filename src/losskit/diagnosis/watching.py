"""`losskit.watch`: the calls of a criterion, looked at while a model trains."""

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from losskit import modules
from losskit.diagnosis.examine import conclude, examine
from losskit.diagnosis.finding import Finding, Place
from losskit.diagnosis.history import FIRST_CALLS, History
from losskit.diagnosis.interception import Interception, observing, public_namespaces
from losskit.diagnosis.report import Report
from losskit.diagnosis.site import user_line
from losskit.diagnosis.steps import start_counting, stop_counting
from losskit.diagnosis.watched_code import namespaces_of
from losskit.errors import LosskitTypeError, LosskitValueError, LossWarning
from losskit.replace import CLASSES

__all__ = ["Watch", "watch"]

EVERY = 1000

# losskit's and, above them, torch's own, also while those have been replaced.
_LOSS_CLASSES = tuple(base for name in CLASSES for base in getattr(modules, name).__mro__ if base.__name__ == name)


def watch(criterion_or_model: nn.Module, *, every: int = EVERY) -> "Watch":
    """Check the calls of a criterion while a model trains, and warn once of each fault.

    Of each criterion the first three calls are checked and then every `every`-th; the others cost a count. No number
    and no option changes, and neither do `state_dict`, pickles and copies, which are not watched. What torch.compile
    took into a graph is not seen.

    **Args**: `criterion_or_model`: a loss module of `torch.nn` or losskit, a subclass of one, or a module that holds
    some, which are all watched; where it holds none, the losses that it calls itself are. `every`: how often to check.

    **Returns**: a `Watch`, which ends by its `.remove()` or at the end of a `with` block; its `.report` tells all that
    was found. A fault is a `losskit.LossWarning`, with the line that called the loss; what is no fault but good to
    know stands in the report alone.

    **Raises**: TypeError for anything but a module, ValueError for an `every` below 1.

    **Example**:

    >>> import torch, losskit, warnings
    >>> criterion = torch.nn.CrossEntropyLoss()
    >>> with warnings.catch_warnings(record=True) as seen, losskit.watch(criterion) as watching:
    ...     warnings.simplefilter("always")
    ...     loss = criterion(torch.eye(4), torch.arange(4))
    >>> watching.report.codes
    ('double-softmax',)
    >>> [warning.category.__name__ for warning in seen]
    ['LossWarning']
    """
    if not isinstance(criterion_or_model, nn.Module):
        raise LosskitTypeError(
            "watch: criterion_or_model must be a torch.nn.Module, got "
            f"{type(criterion_or_model).__name__}; `losskit doctor SCRIPT` watches functions too."
        )
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise LosskitValueError(f"watch: every must be a whole number of 1 or more, got {every!r}.")
    return Watch(criterion_or_model, every)


class Watch:
    """What `watch` began, and the way to end it."""

    def __init__(self, module: nn.Module, every: int) -> None:
        losses = [each for each in module.modules() if isinstance(each, _LOSS_CLASSES)]
        self._watched: list[tuple[nn.Module, _Watched]] = []
        start_counting()
        with _lock:
            for each in losses or [module]:
                watched = _watched.get(each)
                if watched is None:
                    watched = _watched[each] = _Watched(every)
                    _hold(type(each))
                watched.users += 1
                watched.every = min(watched.every, every)
                self._watched.append((each, watched))
        self._removed = False

    @property
    def report(self) -> Report:
        """What has been found so far."""
        findings: list[Finding] = []
        notes: list[str] = []
        for module, watched in self._watched:
            watched.conclude()
            for history in list(watched.histories.values()):
                findings += history.findings()
                notes += history.notes
            notes += watched.notes(module)
        return Report.of(findings, list(dict.fromkeys(notes)))

    def remove(self) -> None:
        """Stop watching. A second call does nothing."""
        with _lock:
            if self._removed:
                return
            self._removed = True
            for module, watched in self._watched:
                watched.users -= 1
                if watched.users == 0:
                    watched.conclude()
                    del _watched[module]
                    _release(type(module))
        stop_counting()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        names = ", ".join(type(module).__name__ for module, _ in self._watched)
        return f"<Watch of {names}: {self.report.summary()}>"


@dataclass
class _Watched:
    """A module that is watched: how often it was called, and a history for each loss that it calls."""

    every: int
    users: int = 0
    calls: History = field(default_factory=History)
    histories: dict[str, History] = field(default_factory=dict)

    def conclude(self) -> None:
        for history in list(self.histories.values()):
            history.take_counts(self.calls)
            conclude(history)

    def notes(self, module: nn.Module) -> list[str]:
        name = type(module).__name__
        if type(module) in _compiled:
            return [f"{name}: torch.compile took its calls into a graph"]
        if self.calls.checked >= FIRST_CALLS and not self.histories:
            return [f"{name}: it calls no loss of torch.nn or losskit by name"]
        return []

    def call(self, module: nn.Module, compute: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        if not self.calls.count(self.every):
            return compute(*args, **kwargs)
        self.calls.checked += 1

        def observe(name: str, original: Callable[..., Any], inner: tuple[Any, ...], options: dict[str, Any]) -> Any:
            history = self.histories.setdefault(name, History(report=_warn))
            # The calls in between were counted by the module alone.
            history.take_counts(self.calls)
            return examine(history, Place(name, *user_line()), original, inner, options)

        with Interception([*public_namespaces(), *namespaces_of(module)]), observing(observe):
            return compute(*args, **kwargs)


def _warn(finding: Finding) -> None:
    if finding.severity != "info":
        warnings.warn_explicit(finding.sentence(), LossWarning, finding.file or "losskit", finding.line or 0)


# The modules that are watched. They are known by themselves and carry no mark, so that copies and pickles are theirs.
_watched: "WeakKeyDictionary[nn.Module, _Watched]" = WeakKeyDictionary()
# How many watched modules have this class, and what stood in its way to be called: None where it inherits that.
_classes: dict[type, int] = {}
_own_calls: dict[type, Any] = {}
# Classes of which torch.compile took a call into a graph.
_compiled: set[type] = set()
_lock = threading.RLock()


def _hold(kind: type) -> None:
    """Let the calls of a class pass by here."""
    _classes[kind] = _classes.get(kind, 0) + 1
    if _classes[kind] == 1:
        _own_calls[kind] = vars(kind).get("__call__")
        setattr(kind, "__call__", _calls_of(kind, _own_calls[kind]))  # noqa: B010  # mypy knows no assignment to a method


def _release(kind: type) -> None:
    _classes[kind] -= 1
    if _classes[kind] > 0:
        return
    del _classes[kind]
    own = _own_calls.pop(kind)
    # What somebody has put in its place since stays.
    if hasattr(vars(kind).get("__call__"), "_of_losskit"):
        if own is None:
            delattr(kind, "__call__")
        else:
            setattr(kind, "__call__", own)  # noqa: B010  # mypy knows no assignment to a method


def _calls_of(kind: type, own: Any) -> Callable[..., Any]:
    def note_compiled() -> None:
        _compiled.add(kind)

    # torch.compile calls it while it traces, and leaves it out of the graph; the mark of
    # torch.compiler.assume_constant_result, which would load the compiler.
    note_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a mark of torch's own

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        compute = super(kind, self).__call__ if own is None else own.__get__(self)  # type: ignore[arg-type]  # self is a `kind`
        if torch.compiler.is_compiling():
            note_compiled()
            return compute(*args, **kwargs)
        # The call of a subclass passes by here too.
        watched = _watched.get(self) if type(self) is kind else None
        if watched is None:
            return compute(*args, **kwargs)
        return watched.call(self, compute, args, kwargs)

    call._of_losskit = True  # type: ignore[attr-defined]  # a mark of ours
    return call
