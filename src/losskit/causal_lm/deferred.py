"""Logits that have not been computed: what they are the product of, and what has been done with them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.nn.functional import linear

from losskit import functional
from losskit.core.precision import autocast_enabled


@dataclass(frozen=True)
class Formula:
    """What the logits are of z = x·Wᵀ + b: factor·z/divisor, or cap·tanh(factor·z/divisor)."""

    # Apart, so that what is divided by a cap and multiplied by it again is what it was, to the last bit.
    factor: float = 1.0
    divisor: float = 1.0
    cap: float | None = None
    # To which they were cast.
    dtype: torch.dtype | None = None

    def times(self, number: float) -> "Formula":
        if self.cap is None:
            return replace(self, factor=self.factor * number)
        return replace(self, cap=self.cap * number)

    def over(self, number: float) -> "Formula":
        if self.cap is None:
            return replace(self, divisor=self.divisor * number)
        return replace(self, cap=self.cap / number)

    def options(self) -> dict[str, Any]:
        """The same as keywords of linear_cross_entropy, which has softcap·tanh(logit_scale·z / softcap)."""
        given: dict[str, Any] = {}
        scale = self.factor * (1.0 if self.cap is None else self.cap) / self.divisor
        if scale != 1:
            given["logit_scale"] = scale
        if self.cap is not None:
            given["softcap"] = self.cap
        if self.dtype is not None:
            given["out_dtype"] = self.dtype
        return given


@dataclass
class Origin:
    """The call of a head that some deferred logits come from: x·Wᵀ + b."""

    weight: Tensor
    bias: Tensor | None
    workspace: int | str
    # Is told what the logits had to be computed for.
    report: Callable[[str], None]
    # All that come from the call, each after what it was made of.
    members: "list[ref[DeferredLogits]]" = field(default_factory=list)


class DeferredLogits:
    """Stands for a tensor of logits (…, C) in the code of a model.

    Reshaped, sliced along other dimensions than the last, scaled, capped by a tanh or cast, it stays deferred; cross
    entropy of it is linear cross entropy. For everything else the logits are computed, by the operations that they have
    been through, and from then on it stands for that tensor.
    """

    def __init__(
        self,
        hidden: Tensor,
        origin: Origin,
        formula: Formula | None = None,
        compute: Callable[[], Tensor] | None = None,
    ) -> None:
        # (…, K)
        self._hidden = hidden
        self._origin = origin
        self._formula = formula or Formula()
        # One of the two is there.
        self._compute: Callable[[], Tensor] | None = compute or (lambda: linear(hidden, origin.weight, origin.bias))
        self._computed: Tensor | None = None
        origin.members.append(ref(self))

    # what is known without computing them -----------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        return torch.Size([*self._hidden.shape[:-1], len(self._origin.weight)])

    @property
    def dtype(self) -> torch.dtype:
        if self._formula.dtype is not None:
            return self._formula.dtype
        dtype, device = self._hidden.dtype, self._hidden.device.type
        # float64 is left alone by autocast.
        return torch.get_autocast_dtype(device) if autocast_enabled(device) and dtype != torch.float64 else dtype

    @property
    def device(self) -> torch.device:
        return self._hidden.device

    @property
    def ndim(self) -> int:
        return self._hidden.ndim

    def dim(self) -> int:
        return self._hidden.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeferredLogits({tuple(self.shape)}, {self.dtype})"

    # the tensor itself ------------------------------------------------------------------------------------------------

    def tensor(self, operation: str) -> Tensor:
        """The logits, which this operation needs."""
        if self._compute is not None:
            self._origin.report(f"its forward calls {operation} on them")
            # All that come from the same call, in the order of the code: what writes into one changes the views of it,
            # and not the copies, as it would have done.
            members, self._origin.members = self._origin.members, []
            for reference in members:
                member = reference()
                if member is not None and member._compute is not None:
                    member._computed, member._compute = member._compute(), None
        return self._value()

    def _value(self) -> Tensor:
        return self._computed  # type: ignore[return-value]  # its callers have seen that it was computed

    def _derived(
        self,
        hidden: Tensor,
        formula: Formula,
        operation: Callable[..., Tensor],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> "DeferredLogits":
        return DeferredLogits(
            hidden, self._origin, formula, lambda: operation(self._value(), *args, **({} if kwargs is None else kwargs))
        )

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch calls for its functions that get one of these."""
        kwargs = kwargs or {}
        rule = _RULES.get(function.__name__)
        if rule is not None and args and isinstance(args[0], cls) and args[0]._compute is not None:
            result = rule(args[0], function, args[1:], kwargs)
            if result is not None:
                return result
        return function(*_computed(args, function.__name__), **_computed(kwargs, function.__name__))

    def __getattr__(self, name: str) -> Any:
        # What is defined above does not get here.
        attribute = getattr(Tensor, name)
        if not callable(attribute):
            return getattr(self.tensor(name), name)
        return lambda *args, **kwargs: self.__torch_function__(attribute, (), (self, *args), kwargs)

    # the operations that leave them deferred, each with its arguments behind the logits; None: not with these ---------

    def _reshape(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> "DeferredLogits | None":
        like = torch.empty(self.shape, dtype=self.dtype, device="meta")
        result = operation(like, *args, **kwargs)
        if result.shape[-1:] != self.shape[-1:] or result.dtype != like.dtype:
            return None
        hidden = self._hidden.reshape(*result.shape[:-1], self._hidden.shape[-1])
        return self._derived(hidden, self._formula, operation, args, kwargs)

    def _getitem(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> "DeferredLogits | None":
        if not _leaves_last_dimension(args[0], self.ndim):
            return None
        return self._derived(self._hidden[args[0]], self._formula, operation, args)

    def _mul(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> "DeferredLogits | None":
        factor = _positive_number(args, kwargs)
        if factor is None:
            return None
        return self._derived(self._hidden, self._formula.times(factor), operation, args)

    def _div(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> "DeferredLogits | None":
        divisor = _positive_number(args, kwargs)
        if divisor is None:
            return None
        return self._derived(self._hidden, self._formula.over(divisor), operation, args)

    def _tanh(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> "DeferredLogits | None":
        if args or kwargs or self._formula.cap is not None:
            return None
        return self._derived(self._hidden, replace(self._formula, cap=1.0), operation)

    def _cast(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> "DeferredLogits | None":
        result = operation(torch.empty(0, dtype=self.dtype, device=self.device), *args, **kwargs)
        if not isinstance(result, Tensor) or not result.is_floating_point() or result.device != self.device:
            return None
        formula = self._formula if result.dtype == self.dtype else replace(self._formula, dtype=result.dtype)
        return self._derived(self._hidden, formula, operation, args, kwargs)

    def _cross_entropy(self, operation: Callable[..., Tensor], args: Any, kwargs: Any) -> Any:
        target = args[0]
        given = {name: value for name, value in kwargs.items() if value is not None}
        if len(args) > 1 or self.ndim != 2 or not isinstance(target, Tensor) or target.is_floating_point():
            return None
        scale = given.pop("logit_scale", 1.0)
        if given.pop("inplace_backward", False) or isinstance(scale, Tensor) or scale != 1:
            return None
        if given.keys() - _SHARED_OPTIONS:
            return None
        origin = self._origin
        return functional.linear_cross_entropy(
            self._hidden,
            origin.weight,
            target,
            linear_bias=origin.bias,
            workspace=origin.workspace,
            **self._formula.options(),
            **given,
        )


# That cross_entropy and linear_cross_entropy both have; torch's has the first three.
_SHARED_OPTIONS = {
    *("ignore_index", "reduction", "label_smoothing"),
    *("sample_weight", "mask", "normalizer", "on_empty", "backend", "z_loss", "return_stats"),
}

_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("view", "reshape", "flatten", "squeeze", "unsqueeze"), DeferredLogits._reshape),
    "__getitem__": DeferredLogits._getitem,
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), DeferredLogits._mul),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), DeferredLogits._div),
    "tanh": DeferredLogits._tanh,
    **dict.fromkeys(("contiguous", "float", "double", "half", "bfloat16", "to", "type"), DeferredLogits._cast),
    "cross_entropy": DeferredLogits._cross_entropy,
}


def _operator(name: str) -> Callable[..., Any]:
    def operator(self: DeferredLogits, *args: Any) -> Any:
        return self.__torch_function__(getattr(Tensor, name), (), (self, *args))

    return operator


# Python looks for these in the class alone.
for _name in (
    *("__getitem__", "__setitem__", "__iter__", "__bool__", "__int__", "__float__", "__array__", "__contains__"),
    *("__neg__", "__abs__", "__invert__", "__lt__", "__le__", "__gt__", "__ge__", "__ne__", "__eq__"),
    *(
        f"__{side}{name}__"
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
        for side in ("", "r", "i")
        if hasattr(Tensor, f"__{side}{name}__")
    ),
):
    setattr(DeferredLogits, _name, _operator(_name))
# As a tensor: by identity.
DeferredLogits.__hash__ = object.__hash__  # type: ignore[method-assign]  # __eq__ has taken it away


def _computed(value: Any, operation: str) -> Any:
    """The same with the logits in the place of what stands for them."""
    if isinstance(value, DeferredLogits):
        return value.tensor(operation)
    if isinstance(value, (list, tuple)):
        return type(value)(_computed(item, operation) for item in value)
    if isinstance(value, dict):
        return {name: _computed(item, operation) for name, item in value.items()}
    return value


def _leaves_last_dimension(index: Any, ndim: int) -> bool:
    """Whether `tensor[index]` takes whole rows of the last dimension and keeps it last."""
    entries = index if isinstance(index, tuple) else (index,)
    taken = 0
    for entry in entries:
        if isinstance(entry, Tensor) and entry.dtype in (torch.bool, torch.uint8):
            taken += entry.ndim
        elif isinstance(entry, (int, slice, Tensor)) and not isinstance(entry, bool):
            taken += 1
        elif entry is not None and entry is not Ellipsis:
            return False
    if taken < ndim and (Ellipsis not in [e for e in entries if not isinstance(e, Tensor)] or entries[-1] is Ellipsis):
        return True
    last = entries[-1] if entries[-1] is not Ellipsis else entries[-2]
    return isinstance(last, slice) and last == slice(None)


def _positive_number(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    if kwargs or len(args) != 1 or not isinstance(args[0], (int, float)) or isinstance(args[0], bool):
        return None
    return float(args[0]) if math.isfinite(args[0]) and args[0] > 0 else None
