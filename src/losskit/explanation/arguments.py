"""What is explained: the loss that a criterion, function or name stands for, and the arguments of its call."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from losskit import functional, modules
from losskit.catalog import LOSSES, LossInfo
from losskit.errors import LosskitTypeError
from losskit.names import loss_named

# What a loss is of; the rest says how it is computed.
DATA = (
    "input",
    "input1",
    "input2",
    "anchor",
    "positive",
    "negative",
    "log_probs",
    "linear_weight",
    "linear_bias",
    "query",
    "key",
    "negatives",
    "image_features",
    "text_features",
    "target",
    "targets",
    "var",
    "input_lengths",
    "target_lengths",
)
# Tensors among the options.
FACTORS = ("weight", "pos_weight", "sample_weight", "mask")
# The losses whose target holds class indices and nothing else.
_INDICES = ("nll_loss", "multi_margin_loss", "multilabel_margin_loss", "ctc_loss")


@dataclass(frozen=True, eq=False)
class Request:
    """A call of one loss: everything that its function takes, by name."""

    loss: LossInfo
    arguments: Mapping[str, Any]

    @property
    def function(self) -> Callable[..., Tensor]:
        function: Callable[..., Tensor] = getattr(functional, self.loss.name)
        return function

    @property
    def options(self) -> dict[str, Any]:
        """What differs from the defaults and is not data."""
        parameters = inspect.signature(self.function).parameters
        return {
            name: value
            for name, value in self.arguments.items()
            if name not in DATA and not _same(value, parameters[name].default)
        }


def request(criterion: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
    """The call that `criterion(*args, **kwargs)` is, its lists turned into tensors."""
    module = criterion if isinstance(criterion, nn.Module) else None
    loss = _loss_of_module(module) if module is not None else _loss_of(criterion)
    function = getattr(functional, loss.name)
    parameters = inspect.signature(function).parameters
    for name in kwargs:
        if name not in parameters:
            raise LosskitTypeError(f"explain: {loss.name} takes no {name!r}.{_suggestion(name, parameters)}")
    given: dict[str, Any] = {}
    order = list(parameters)
    if module is not None:
        given = _held_by(module, loss, parameters)
        # What stands in the criterion is not among the arguments of its call.
        order = [name for name in order if name in DATA and name not in given]
    if len(args) > len(order):
        raise LosskitTypeError(
            f"explain: {type(module).__name__ if module is not None else loss.name} takes {len(order)} arguments "
            f"without a name, {', '.join(order)}; got {len(args)}."
        )
    for name, value in zip(order, args, strict=False):
        if name in kwargs:
            raise LosskitTypeError(f"explain: {name} of {loss.name} is given twice.")
        given[name] = value
    given |= kwargs
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
        raise LosskitTypeError(f"explain: {loss.name} needs {', '.join(needed)}; {missing[0]} is missing.")
    arguments = {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
    _check_readable(arguments)
    return Request(loss, _as_tensors(loss.name, arguments))


def loss_of_name(name: str) -> LossInfo:
    """The loss with this function, class or short name; `F.`, `nn.` and the like may stand in front."""
    return loss_named(name.rpartition(".")[2], "explain")


def _check_readable(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            continue
        if value.device.type == "meta":
            raise LosskitTypeError(f"explain: {name} is on the meta device and has no values.")
        if value.is_nested or value.is_quantized or value.layout != torch.strided:
            kind = "nested" if value.is_nested else "quantized" if value.is_quantized else "sparse"
            how = {"nested": "to_padded_tensor(0.0)", "quantized": "dequantize()", "sparse": "to_dense()"}[kind]
            raise LosskitTypeError(f"explain: {name} is {kind}, and a plain tensor is needed: {name}.{how}?")


def _loss_of(criterion: Any) -> LossInfo:
    if isinstance(criterion, str):
        return loss_of_name(criterion)
    if isinstance(criterion, type):
        if issubclass(criterion, nn.Module):
            return _loss_of_class(criterion)
    elif callable(criterion):
        for loss in LOSSES:
            for namespace in (functional, nn.functional):
                # Older versions of PyTorch lack some.
                if criterion is getattr(namespace, loss.name, None):
                    return loss
        # replace_torch_losses puts others in the place of PyTorch's own, which keep their names.
        if getattr(criterion, "__module__", "") == "torch.nn.functional":
            return loss_of_name(criterion.__name__)
    raise LosskitTypeError(
        "explain: the first argument must be a loss of losskit or torch.nn, as a module, a function or a name, got "
        f"{_described(criterion)}."
    )


def _loss_of_module(module: nn.Module) -> LossInfo:
    loss = _loss_of_class(type(module))
    ours = getattr(modules, loss.module)
    if not any(type(module).forward is base.forward for base in ours.__mro__ if issubclass(base, nn.Module)):
        raise LosskitTypeError(
            f"explain: {type(module).__name__} computes in a forward of its own; explain the losses that it calls."
        )
    return loss


def _loss_of_class(criterion: type) -> LossInfo:
    for loss in LOSSES:
        ours = getattr(modules, loss.module)
        # Ours are subclasses of PyTorch's.
        theirs = [base for base in ours.__mro__ if base.__name__ == loss.module]
        if any(issubclass(criterion, base) for base in theirs):
            return loss
    raise LosskitTypeError(
        f"explain: the first argument must be a loss of losskit or torch.nn, as a module, a function or a name, got "
        f"{criterion.__name__}."
    )


def _described(value: Any) -> str:
    name = getattr(value, "__name__", "")
    return (
        f"the function {name!r}" if name and callable(value) and not isinstance(value, type) else type(value).__name__
    )


def _held_by(module: nn.Module, loss: LossInfo, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a criterion was made with, under the names of the function."""
    held = {name: getattr(module, name) for name in parameters if name not in DATA and hasattr(module, name)}
    if loss.name == "linear_cross_entropy":
        layer: Any = module.linear
        if not isinstance(layer, nn.Linear):
            raise LosskitTypeError(
                f"explain: the layer of {type(module).__name__} is a {type(layer).__name__}; explain "
                "linear_cross_entropy with the weight that it stands for."
            )
        shape = (module.num_classes, *module.out_features)  # type: ignore[misc]  # a tuple of ints
        held["linear_weight"] = layer.weight.reshape([*shape, layer.in_features])
        held["linear_bias"] = None if layer.bias is None else layer.bias.reshape(shape)
    return held


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(default, Tensor):
        return value is default
    return bool(value == default)


def _suggestion(name: str, parameters: Mapping[str, Any]) -> str:
    near = get_close_matches(name, list(parameters), n=1)
    return f" Did you mean {near[0]!r}?" if near else f" It takes {', '.join(parameters)}."


def _as_tensors(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with tensors for lists and numbers, of the dtype that the loss wants in their place."""
    arguments = dict(arguments)
    like = None
    for name in [*DATA, *FACTORS]:
        value = arguments.get(name)
        if value is None or isinstance(value, Tensor):
            like = value if like is None else like
            continue
        if name.endswith("_lengths"):
            arguments[name] = (value,) if isinstance(value, int) else value
            continue
        if name == "var" and isinstance(value, (int, float)):
            arguments[name] = float(value)
            continue
        tensor = _fitted(function, name, as_tensor(name, value), value, like, _scores_shape(function, arguments))
        # What comes beside a tensor lies where it lies.
        arguments[name] = tensor.to(torch.get_default_device() if like is None else like.device)
        like = tensor if like is None else like
    return arguments


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor of numbers that stand in nested lists, of the dtype that torch gives them."""
    if isinstance(value, (list, tuple)):
        _check_numbers(name, value)
    try:
        return torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        ragged = "expected sequence of length" in str(error)
        cause = (
            "its rows have different lengths"
            if ragged
            else f"got {type(value).__name__}, and a tensor or a list of numbers is needed"
        )
        raise LosskitTypeError(f"explain: {name} makes no tensor: {cause}.") from None


def _check_numbers(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _check_numbers(name, value)
        elif isinstance(value, str) or value is None:
            raise LosskitTypeError(f"explain: {name} holds {value!r}, where a number is needed.")


def _scores_shape(function: str, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape that a target of class probabilities has."""
    input, layer = arguments.get("input"), arguments.get("linear_weight")
    if function == "linear_cross_entropy" and isinstance(input, Tensor) and isinstance(layer, Tensor):
        return (*input.shape[:-1], *layer.shape[:-1])
    return tuple(input.shape) if function == "cross_entropy" and isinstance(input, Tensor) else None


def _fitted(
    function: str, name: str, tensor: Tensor, value: Any, like: Tensor | None, scores: tuple[int, ...] | None
) -> Tensor:
    """Numbers as a learner writes them, 1 for 1.0: the dtype is that of the place they are put in."""
    if not isinstance(value, (list, tuple, int, float, complex)):
        # An array knows its dtype.
        return tensor
    floating = like.dtype if like is not None and like.is_floating_point() else torch.get_default_dtype()
    if name == "mask":
        return tensor.bool() if bool(((tensor == 0) | (tensor == 1)).all()) else tensor
    if name in ("target", "targets"):
        if function in _INDICES or function == "cosine_embedding_loss":
            # An empty list is one of no floats.
            return tensor.long() if tensor.numel() == 0 else tensor
        if scores is not None and tensor.shape != scores:
            return tensor.long() if tensor.numel() == 0 else tensor
    return tensor if tensor.is_complex() else tensor.to(floating)
