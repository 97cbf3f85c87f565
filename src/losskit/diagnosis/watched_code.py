"""The modules of Python code in which a criterion may hold loss functions by name."""

import functools
import sys
from typing import Any

from torch import nn

__all__ = ["namespaces_of"]


def namespaces_of(criterion: Any) -> list[dict[str, Any]]:
    """The namespaces of a criterion's own code: those of its class, its parts and its bases, or of its function."""
    if isinstance(criterion, functools.partial):
        return namespaces_of(criterion.func)
    if isinstance(criterion, nn.Module):
        names = {base.__module__ for module in criterion.modules() for base in type(module).__mro__}
    else:
        names = {getattr(criterion, "__module__", None) or "", type(criterion).__module__}
    found = [vars(sys.modules[name]) for name in sorted(names) if name in sys.modules and not _is_inside(name)]
    namespace = getattr(criterion, "__globals__", None)
    return found if namespace is None or _is_inside(namespace.get("__name__", "")) else [*found, namespace]


def _is_inside(name: str) -> bool:
    """torch and losskit take their functions from the namespaces that are public."""
    return name.split(".")[0] in ("torch", "losskit", "builtins")
