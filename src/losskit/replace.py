"""These losses in the place of PyTorch's, in a running program."""

import sys
import threading
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as torch_functional

from losskit import functional, modules
from losskit.catalog import LOSSES

CLASSES = tuple(name for loss in LOSSES for name in (loss.module, *loss.deprecated_modules))
FUNCTIONS = tuple(loss.name for loss in LOSSES)

_lock = threading.RLock()


def replace_torch_losses() -> "Replacement":
    """Put the losses of losskit in the place of those of `torch.nn` and `torch.nn.functional`.

    From the call on, every module of the program that holds one of PyTorch's losses under some name (`nn.MSELoss`,
    `F.mse_loss`, `from torch.nn.functional import mse_loss`) holds ours under it; modules of loss classes that exist
    already (`criterion = nn.MSELoss()`) compute with ours, since PyTorch's classes call `torch.nn.functional`. What was
    stored elsewhere, in a variable of a function or a container, stays. A module that is imported later and copies a
    name takes what stands there then, and keeps it after the replacement is undone.

    While it stands, a criterion of PyTorch's own class is no instance of the class that now has its name, and cannot be
    pickled; `torch.jit.script` takes none of the replaced losses. `state_dict`s go both ways.

    **Returns**: the replacement, which is undone by its `.restore()` or at the end of a `with` block, also after an
    exception. Replacements nest; each restores exactly what it replaced.

    **Example**:

    >>> import torch.nn.functional as F
    >>> with replace_torch_losses():
    ...     F.mse_loss is functional.mse_loss
    True
    >>> F.mse_loss is functional.mse_loss
    False
    """
    return Replacement()


class Replacement:
    """What `replace_torch_losses` did, and the way back."""

    def __init__(self) -> None:
        # (namespace, name, what stood there, what stands there now), in the order of the changes.
        self._changes: list[tuple[dict[str, Any], str, Any, Any]] = []
        with _lock:
            # Older versions of PyTorch lack some.
            ours = {
                id(getattr(torch_functional, name)): getattr(functional, name)
                for name in FUNCTIONS
                if hasattr(torch_functional, name)
            }
            ours |= {id(getattr(nn, name)): getattr(modules, name) for name in CLASSES if hasattr(nn, name)}
            for name, module in list(sys.modules.items()):
                if name == "losskit" or name.startswith("losskit.") or not hasattr(module, "__dict__"):
                    continue
                self._replace_in(vars(module), ours)

    def _replace_in(self, namespace: dict[str, Any], ours: dict[int, Any]) -> None:
        for name, value in list(namespace.items()):
            new = ours.get(id(value))
            if new is not None and new is not value:
                namespace[name] = new
                self._changes.append((namespace, name, value, new))

    def restore(self) -> None:
        """Undo the replacement. A name that has been given another value since keeps it. A second call does nothing."""
        with _lock:
            while self._changes:
                namespace, name, before, now = self._changes.pop()
                if namespace.get(name) is now:
                    namespace[name] = before

    def __enter__(self) -> "Replacement":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def __repr__(self) -> str:
        return f"<replace_torch_losses: {len(self._changes)} names of {torch.__name__}'s losses replaced>"
