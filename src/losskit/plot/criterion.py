"""One loss from whatever names it: a name, a function, a module, or a function of the caller's own."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from losskit import functional
from losskit.catalog import LOSSES, LossInfo
from losskit.errors import LosskitTypeError
from losskit.names import loss_named

__all__ = ["Loss", "as_loss", "class_count", "value_label"]


class Loss(NamedTuple):
    """A loss with its options.

    `info` is None for a function or module that is none of the catalog's.
    """

    info: LossInfo | None
    label: str
    # The loss with `reduction`, which one of the caller's own is not asked for.
    call: Callable[..., Tensor]
    # The options that were given, such as delta=2.
    options: dict[str, Any]
    # Whether it is a module, which holds what does not come with a batch.
    module: bool = False

    def each(self, *arguments: Any, **kwargs: Any) -> Tensor:
        """The unreduced losses."""
        return self.call(*arguments, **({} if self.info is None else {"reduction": "none"}), **kwargs)


def as_loss(loss: Any, function: str) -> Loss:
    """`loss` is a name, a function of losskit or torch, a module, a functools.partial, or any function."""
    if isinstance(loss, str):
        info = loss_named(loss, function)
        return Loss(info, info.name, getattr(functional, info.name), {})
    if isinstance(loss, nn.Module):
        return _of_module(loss)
    options = {}
    if isinstance(loss, functools.partial) and not loss.args:
        loss, options = loss.func, {name: value for name, value in loss.keywords.items() if name != "reduction"}
    if not callable(loss):
        raise LosskitTypeError(
            f"{function}: a loss is a name such as 'mse', a function or a module, got {type(loss).__name__}."
        )
    name = getattr(loss, "__name__", type(loss).__name__)
    found = next((info for info in LOSSES if info.name == name and loss in _functions(name)), None)
    call = functools.partial(loss, **options) if options else loss
    return Loss(found, _labelled(name.strip("<>"), options), call, options)


def _functions(name: str) -> list[object]:
    """losskit's function of this name and torch's, which older versions of torch may lack."""
    return [getattr(functional, name), getattr(nn.functional, name, None)]


def _of_module(module: nn.Module) -> Loss:
    classes = [cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith(("losskit.", "torch.nn."))]
    info = next((i for name in classes for i in LOSSES if name in (i.module, *i.deprecated_modules)), None)
    # A forward of the caller's own may compute anything.
    if info is None or not type(module).forward.__module__.startswith(("losskit.", "torch.nn.")):
        return Loss(None, type(module).__name__, module, {})
    options = _options(module)

    def call(*arguments: Any, reduction: str, **kwargs: Any) -> Tensor:
        reduced = copy.copy(module)
        reduced.reduction = reduction  # type: ignore[assignment]  # a text in every loss module
        result: Tensor = reduced(*arguments, **kwargs)
        return result

    return Loss(info, _labelled(type(module).__name__, options), call, options, module=True)


def _options(module: nn.Module) -> dict[str, Any]:
    """Those of the module that are not the defaults, read from the signature of torch's class and of losskit's."""
    options = {}
    for cls in type(module).__mro__:
        if cls is nn.Module:
            break
        if "__init__" not in vars(cls):
            continue
        for name, parameter in inspect.signature(vars(cls)["__init__"]).parameters.items():
            value = getattr(module, name, parameter.default)
            if (
                name not in ("size_average", "reduce", "reduction", "backend", "out_dtype", "on_empty")
                and parameter.default is not inspect.Parameter.empty
                and (isinstance(value, Tensor) or value != parameter.default)
            ):
                options[name] = value
    return options


def _labelled(name: str, options: dict[str, Any]) -> str:
    if not options:
        return name
    return f"{name}({', '.join(f'{option}={_shown(value)}' for option, value in options.items())})"


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        numbers = value.flatten().tolist()
        return "[" + ", ".join(f"{number:.3g}" for number in numbers[:4]) + (", …]" if len(numbers) > 4 else "]")
    return getattr(value, "__name__", None) or (f"{value:g}" if isinstance(value, float) else repr(value))


def value_label(loss: Loss) -> str:
    """What the axis of a loss says."""
    if loss.info is None:
        return "loss"
    return "loss (no unit)" if loss.info.unit == "none" else f"loss ({loss.info.unit})"


def class_count(loss: Loss) -> int:
    """How many classes the weights of a loss are for; 1 where it has none."""
    weights = [loss.options.get(name) for name in ("weight", "pos_weight")]
    return max((weight.numel() for weight in weights if isinstance(weight, Tensor)), default=1)
