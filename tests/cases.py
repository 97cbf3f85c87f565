"""The one list of losses that the tests run over. A new loss joins by an entry in `CASES`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import oracles
import pytest
import torch
from torch import Generator, Tensor

import losskit
from losskit import functional

Function = Callable[..., Tensor]
# Those of pairs of vectors.
CONTRASTIVE = ("clip_loss", "info_nce", "siglip_loss")
HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Call:
    """Arguments of one call, the same for losskit and for torch.

    `input` and `target` are the first two tensors, whatever their names, and everything else is given by name.
    """

    input: Tensor
    target: Tensor
    kwargs: dict[str, Any] = field(default_factory=dict)
    # The name of a third tensor that belongs to the data as the first two do, where there is one.
    third: str = ""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The data, each tensor in its place."""
        return (self.input, self.target, *([self.kwargs[self.third]] if self.third else []))

    def with_tensors(self, *tensors: Tensor) -> "Call":
        """With other data."""
        input, target, *rest = tensors
        kwargs = {**self.kwargs, self.third: rest[0]} if self.third else self.kwargs
        return replace(self, input=input, target=target, kwargs=kwargs)

    def run(self, function: Function, **more: Any) -> Tensor:
        return function(self.input, self.target, **{**self.kwargs, **more})

    def map(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """With every floating or complex tensor changed."""

        def changed(value: Any) -> Any:
            inexact = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
            return change(value) if inexact else value

        kwargs = {name: changed(value) for name, value in self.kwargs.items()}
        return replace(self, input=changed(self.input), target=changed(self.target), kwargs=kwargs)

    def map_all(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """With every tensor changed."""
        kwargs = {name: change(value) if isinstance(value, Tensor) else value for name, value in self.kwargs.items()}
        return replace(self, input=change(self.input), target=change(self.target), kwargs=kwargs)

    def to(self, dtype: torch.dtype) -> "Call":
        return self.map(lambda tensor: tensor.detach().to(dtype))

    def wide(self) -> "Call":
        return self.map(lambda tensor: tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64))

    def leaves(self, *places: int) -> "Call":
        """A copy in which the tensors in these places require a gradient; by default the first."""
        wanted = places or (0,)
        return self.with_tensors(
            *(
                tensor.detach().clone().requires_grad_(True) if place in wanted else tensor.detach()
                for place, tensor in enumerate(self.tensors)
            )
        )

    def wanted(self) -> list[Tensor]:
        """The tensors of the data that require a gradient."""
        return [tensor for tensor in self.tensors if tensor.requires_grad]

    def rows(self, index: Any) -> "Call":
        """These rows of the batch; what among the other arguments has as many rows goes with them."""
        kwargs = {
            name: value[index]
            if isinstance(value, Tensor) and (name == self.third or value.shape == self.input.shape)
            else value
            for name, value in self.kwargs.items()
        }
        return replace(self, input=self.input[index], target=self.target[index], kwargs=kwargs)


# Shape of the input, dtype and a source of randomness to arguments.
Maker = Callable[[tuple[int, ...], torch.dtype, Generator], Call]


@dataclass(frozen=True)
class Case:
    """One loss: ours, torch's, an independent form of it, and arguments for it."""

    name: str
    function: Function
    module: type[torch.nn.Module]
    torch_function: Function
    torch_module: type[torch.nn.Module]
    # (input, target, **kwargs) in float64 to (losses, what each adds to the divisor of the mean).
    textbook: Callable[..., tuple[Tensor, Tensor]]
    # By name; "plain" takes no argument beyond input and target.
    variants: dict[str, Maker]
    # Of the input; the first is the one for tests that need a single one.
    shapes: tuple[tuple[int, ...], ...]
    # The places of the tensors that torch has a gradient by, and of those that the kernel has one by.
    gradients: tuple[int, ...]
    kernel_gradients: tuple[int, ...] = (0,)
    # Whether input and target may change places.
    symmetric: bool = False
    # Whether the target names a class, so that the loss has no class axis.
    classes: bool = False
    # Whether there is a loss per row, along the last axis.
    rows: bool = False
    # Whether the input is a row or a matrix of rows, and no more.
    matrix: bool = False
    # Whether torch's own class takes float16 and bfloat16; `torch_function` here does in any case.
    halves_in_torch: bool = True
    # torch's function, or a form that has second derivatives where torch's has none.
    twice: Function | None = None
    # In the first tensor.
    convex: bool = True
    # Whether no loss is below 0.
    nonnegative: bool = True
    # Whether any real number, infinity or NaN is an input, and not a probability alone.
    any_input: bool = True

    def make(self, variant: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Call:
        if self.matrix and len(shape) > 2:
            shape = (torch.Size(shape[:-1]).numel(), shape[-1])
        return self.variants[variant](shape, dtype, torch.Generator().manual_seed(seed))

    def loss_shape(self, call: Call) -> torch.Size:
        shape = call.input.shape
        if self.rows:
            return shape[:-1]
        if not self.classes:
            return shape
        return torch.Size([*shape[:1], *shape[2:]]) if len(shape) > 1 else torch.Size([])

    def spread(self, values: Tensor, tensor: Tensor) -> Tensor:
        """One value per loss as one value per element of a tensor of the data."""
        if values.ndim == tensor.ndim:
            return values
        return values.unsqueeze(-1 if self.rows else 1).expand(tensor.shape)

    def floor(self, call: Call, grad_output: Tensor) -> float:
        """A scale that no gradient by the input goes below.

        Of one class, or of vectors of one number, the gradient is 0, left over from terms of the size of grad_output.
        """
        if self.name in CONTRASTIVE:
            return self._pair_floor(call, grad_output)
        one = self.classes and call.input.shape[:2][-1] == 1
        single = self.name in ("cosine_embedding_loss", "triplet_margin_loss") and call.input.shape[-1] == 1
        if not (one or single) or not grad_output.numel():
            return 0.0
        size = float(call.input.detach().abs().min()) if self.name == "cosine_embedding_loss" else 1.0
        return float(grad_output.abs().max()) / size

    def _pair_floor(self, call: Call, grad_output: Tensor) -> float:
        """What a probability of 1 leaves of 1 − p, times what the similarities are multiplied by."""
        tensors = [
            tensor.detach().double() for tensor in (*call.tensors, call.kwargs.get("negatives")) if tensor is not None
        ]
        if not all(tensor.numel() for tensor in (*tensors, grad_output)):
            return 0.0
        scale = float(call.kwargs.get("logit_scale", 1 / call.kwargs.get("temperature", 0.07)))
        if call.kwargs.get("normalize", True):
            size = 1 / min(float(tensor.norm(dim=-1).min()) for tensor in tensors)
        else:
            size = max(float(tensor.abs().max()) for tensor in tensors)
        return scale * size * float(grad_output.abs().max())

    def terms(self, call: Call) -> float:
        """The size of what a loss is the difference of, where its digits are those of larger numbers."""
        if self.name != "triplet_margin_loss" or not call.input.numel():
            return 0.0
        anchor, positive, negative = (tensor.detach().double() for tensor in call.tensors)
        norm = call.kwargs.get("p", 2.0)
        largest = max(float((anchor - other).norm(norm, -1).max()) for other in (positive, negative))
        # torch adds the numbers of a norm one after the other, and their roundings with them.
        return largest * max(1.0, anchor.shape[-1] ** 0.5 / 4)

    def differentiable(self, call: Call) -> tuple[int, ...]:
        return tuple(place for place in self.gradients if call.tensors[place].is_floating_point())

    def __repr__(self) -> str:
        return self.name


def _normal(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator, spread: float = 2.0) -> Tensor:
    return (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def _uniform(
    shape: tuple[int, ...], dtype: torch.dtype, generator: Generator, low: float = 0.05, high: float = 0.95
) -> Tensor:
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)


def _difference(*, weight: bool = False, **kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        input, target = _normal(shape, dtype, generator), _normal(shape, dtype, generator)
        extra = {"weight": _uniform(shape, dtype, generator, 0.1, 2.0)} if weight else {}
        return Call(input, target, {**kwargs, **extra})

    return make


def _binary(*, logits: bool, weight: bool = False, pos_weight: bool = False) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        input = _normal(shape, dtype, generator) if logits else _uniform(shape, dtype, generator)
        kwargs = {}
        target = _uniform(shape, dtype, generator)
        if weight:
            kwargs["weight"] = _uniform(shape, dtype, generator, 0.1, 2.0)
        if pos_weight:
            # Along the last axis, as for the columns of a multi-label target.
            kwargs["pos_weight"] = _uniform(shape[-1:], dtype, generator, 0.5, 3.0)
        return Call(input, target, kwargs)

    return make


def _classes(
    *,
    log_probs: bool = False,
    weight: bool = False,
    ignore: bool = False,
    probabilities: bool = False,
    index_dtype: torch.dtype = torch.int64,
    **kwargs: Any,
) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        axis = 1 if len(shape) > 1 else 0
        count = shape[axis]
        input = _normal(shape, torch.float64, generator)
        input = (torch.log_softmax(input, axis) if log_probs else input).to(dtype)
        extra = dict(kwargs)
        if probabilities:
            target = torch.softmax(_normal(shape, torch.float64, generator), axis).to(dtype)
        else:
            rest = (*shape[:axis], *shape[axis + 1 :])
            target = torch.randint(0, max(1, min(count, 256)), rest, generator=generator).to(index_dtype)
        if ignore:
            # About a quarter of the samples, at least one of them and never all of two or more.
            extra["ignore_index"] = -100 if index_dtype == torch.int64 else 255
            flat = target.flatten()
            flat[1::4] = extra["ignore_index"]
            target = flat.reshape(target.shape)
        if weight:
            extra["weight"] = _uniform((count,), dtype, generator, 0.1, 2.0)
        return Call(input, target, extra)

    return make


def _signs(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    return (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(dtype)


def _labelled(**kwargs: Any) -> Maker:
    """Scores or distances, against labels of −1 and 1."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        return Call(_normal(shape, dtype, generator), _signs(shape, dtype, generator), kwargs)

    return make


def _ranked(**kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        input1, input2 = _normal(shape, dtype, generator), _normal(shape, dtype, generator)
        return Call(input1, input2, {"target": _signs(shape, dtype, generator), **kwargs}, "target")

    return make


def _distributions(*, log_target: bool = False) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        input, target = _uniform(shape, torch.float64, generator).log(), _uniform(shape, torch.float64, generator)
        kwargs = {"log_target": True} if log_target else {}
        return Call(input.to(dtype), (target.log() if log_target else target).to(dtype), kwargs)

    return make


def _counts(*, log_input: bool = True, **kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        if log_input:
            input, options = _normal(shape, dtype, generator, 1.0), kwargs
        else:
            input, options = _uniform(shape, dtype, generator, 0.25, 6.0), {"log_input": False, **kwargs}
        # Off 1, where Stirling's approximation begins with a step.
        target = torch.tensor([0.0, 0.5, 2.0, 3.0, 7.0])[torch.randint(0, 5, shape, generator=generator)]
        return Call(input, target.to(dtype), options)

    return make


def _with_variance(**kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        input, target = _normal(shape, dtype, generator), _normal(shape, dtype, generator)
        return Call(input, target, {"var": _uniform(shape, dtype, generator, 0.2, 3.0), **kwargs}, "var")

    return make


def _multi_margin(*, weight: bool = False, **kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        target = torch.randint(0, shape[-1], shape[:-1], generator=generator)
        extra = {"weight": _uniform(shape[-1:], dtype, generator, 0.1, 2.0)} if weight else {}
        return Call(_normal(shape, dtype, generator), target, {**kwargs, **extra})

    return make


def _multilabel(*, repeated: bool = False) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        """Lists of up to four classes, with a −1 and then anything behind them; one list is empty."""
        classes = shape[-1]
        target = torch.randint(-1, classes, shape, generator=generator).reshape(-1, classes)
        for row, entries in enumerate(target):
            count = min(classes, 1 + (row + 3) % 4 if row != 1 else 0)
            if not repeated:
                entries[:count] = torch.randperm(classes, generator=generator)[:count]
            else:
                entries[:count] = torch.randint(0, min(classes, 2), (count,), generator=generator)
            entries[count : count + 1] = -1
        return Call(_normal(shape, dtype, generator), target.reshape(shape))

    return make


def _multilabel_soft(*, weight: bool = False) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        extra = {"weight": _uniform(shape[-1:], dtype, generator, 0.1, 2.0)} if weight else {}
        return Call(_normal(shape, dtype, generator), _uniform(shape, dtype, generator), extra)

    return make


def _signed_pair(**kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        sign = torch.randint(0, 2, shape[:-1], generator=generator).to(dtype) * 2 - 1
        # Towards each other, so that few of the cosines lie below the margin.
        common = _normal(shape, torch.float64, generator)
        input1, input2 = (common + _normal(shape, torch.float64, generator, 1.0) for _ in range(2))
        return Call(input1.to(dtype), input2.to(dtype), {**kwargs, "target": sign}, third="target")

    return make


def _triplet(**kwargs: Any) -> Maker:
    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        anchor, positive, negative = (_normal(shape, dtype, generator) for _ in range(3))
        return Call(anchor, positive, {**kwargs, "negative": negative}, third="negative")

    return make


def _in_float32(function: Function) -> Function:
    """torch's function, also for float16 and bfloat16, which it does not take on the CPU: through float32.

    And with the mean of an empty batch, which is whatever stood in memory there.
    """

    @functools.wraps(function)
    def widened(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.numel() == 0 and kwargs.get("reduction", "mean") == "mean":
            return input.mean()
        if input.dtype not in HALVES or torch.is_autocast_enabled("cpu"):
            return function(input, target, *args, **kwargs)
        wide = {name: value.float() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        rest = [value.float() if isinstance(value, Tensor) else value for value in args]
        return function(input.float(), target, *rest, **wide).to(input.dtype)

    return widened


def _by_textbook(textbook: Callable[..., tuple[Tensor, Tensor]]) -> Function:
    def reduced(*args: Any, reduction: str = "mean", **kwargs: Any) -> Tensor:
        return oracles.reduced(textbook(*args, **kwargs), reduction)

    return reduced


_ROW_SHAPES = ((6, 5), (5,), (1, 1), (3, 1), (63, 507), (2, 1025), (130, 7), (0, 4))
_POINTWISE_SHAPES = ((4, 5), (), (1,), (63,), (507,), (2, 3, 4, 5), (1025,), (0,), (3, 0))
_CLASS_SHAPES = (
    (6, 5),
    (5,),
    (1, 1),
    (3, 1),
    (63, 507),
    (2, 1025),
    (130, 7),
    (3, 4, 2),
    (2, 3, 4, 5),
    (0, 4),
    (2, 3, 0),
)


def _case(name: str, class_name: str, **others: Any) -> Case:
    if "torch_function" not in others:
        others["torch_function"] = getattr(torch.nn.functional, name)
    return Case(
        name=name,
        function=getattr(functional, name),
        module=getattr(losskit, class_name),
        # Of a loss that torch lacks, any module.
        torch_module=getattr(torch.nn, class_name, torch.nn.Module),
        textbook=getattr(oracles, name),
        **others,
    )


CASES = (
    _case(
        "l1_loss",
        "L1Loss",
        variants={"plain": _difference(), "weight": _difference(weight=True)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        kernel_gradients=(0, 1),
        symmetric=True,
    ),
    _case(
        "mse_loss",
        "MSELoss",
        variants={"plain": _difference(), "weight": _difference(weight=True)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        kernel_gradients=(0, 1),
        symmetric=True,
    ),
    _case(
        "smooth_l1_loss",
        "SmoothL1Loss",
        variants={"plain": _difference(), "beta": _difference(beta=0.3), "beta 0": _difference(beta=0.0)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        kernel_gradients=(0, 1),
        symmetric=True,
    ),
    _case(
        "huber_loss",
        "HuberLoss",
        variants={
            "plain": _difference(),
            "delta": _difference(delta=2.5),
            "weight": _difference(weight=True, delta=0.3),
        },
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        kernel_gradients=(0, 1),
        symmetric=True,
    ),
    _case(
        "binary_cross_entropy",
        "BCELoss",
        variants={"plain": _binary(logits=False), "weight": _binary(logits=False, weight=True)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        any_input=False,
    ),
    _case(
        "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss",
        variants={
            "plain": _binary(logits=True),
            "weight": _binary(logits=True, weight=True),
            "pos_weight": _binary(logits=True, pos_weight=True),
            "both": _binary(logits=True, weight=True, pos_weight=True),
        },
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
    ),
    _case(
        "cross_entropy",
        "CrossEntropyLoss",
        variants={
            "plain": _classes(),
            "weight": _classes(weight=True),
            "ignore": _classes(ignore=True),
            "smoothing": _classes(label_smoothing=0.1),
            "all": _classes(weight=True, ignore=True, label_smoothing=0.3),
            "uint8": _classes(index_dtype=torch.uint8, ignore=True),
            "probabilities": _classes(probabilities=True),
            "probabilities all": _classes(probabilities=True, weight=True, label_smoothing=0.3),
        },
        shapes=_CLASS_SHAPES,
        gradients=(0, 1),
        classes=True,
    ),
    _case(
        "multi_margin_loss",
        "MultiMarginLoss",
        torch_function=_in_float32(torch.nn.functional.multi_margin_loss),
        variants={
            "plain": _multi_margin(),
            "squared": _multi_margin(p=2, margin=0.75),
            "weight": _multi_margin(weight=True),
            "all": _multi_margin(weight=True, p=2, margin=2.5),
        },
        shapes=_ROW_SHAPES,
        gradients=(0,),
        rows=True,
        matrix=True,
        halves_in_torch=False,
        twice=_by_textbook(oracles.multi_margin_loss),
    ),
    _case(
        "multilabel_margin_loss",
        "MultiLabelMarginLoss",
        torch_function=_in_float32(torch.nn.functional.multilabel_margin_loss),
        variants={"plain": _multilabel(), "repeated": _multilabel(repeated=True)},
        shapes=_ROW_SHAPES,
        gradients=(0,),
        rows=True,
        matrix=True,
        halves_in_torch=False,
        twice=_by_textbook(oracles.multilabel_margin_loss),
    ),
    _case(
        "multilabel_soft_margin_loss",
        "MultiLabelSoftMarginLoss",
        variants={"plain": _multilabel_soft(), "weight": _multilabel_soft(weight=True)},
        shapes=(*_ROW_SHAPES, (2, 3, 4), (2, 0, 3), (3, 0)),
        gradients=(0, 1),
        rows=True,
    ),
    _case(
        "cosine_embedding_loss",
        "CosineEmbeddingLoss",
        variants={"plain": _signed_pair(), "margin": _signed_pair(margin=0.25)},
        shapes=(*_ROW_SHAPES, (3, 0)),
        gradients=(0, 1),
        kernel_gradients=(0, 1),
        rows=True,
        matrix=True,
        convex=False,
    ),
    _case(
        "triplet_margin_loss",
        "TripletMarginLoss",
        variants={
            "plain": _triplet(),
            "swap": _triplet(swap=True, margin=2.5),
            "sum of distances": _triplet(p=1, margin=1.5, eps=1e-3),
            "all": _triplet(p=1, margin=0.5, eps=1e-3, swap=True),
        },
        shapes=(*_ROW_SHAPES, (2, 3, 4), (2, 0, 3), (3, 0)),
        gradients=(0, 1, 2),
        kernel_gradients=(0, 1, 2),
        rows=True,
        convex=False,
    ),
    _case(
        "nll_loss",
        "NLLLoss",
        variants={
            "plain": _classes(log_probs=True),
            "weight": _classes(log_probs=True, weight=True),
            "all": _classes(log_probs=True, weight=True, ignore=True),
            "uint8": _classes(log_probs=True, index_dtype=torch.uint8, ignore=True),
        },
        shapes=_CLASS_SHAPES,
        gradients=(0,),
        classes=True,
    ),
    _case(
        "soft_margin_loss",
        "SoftMarginLoss",
        variants={"plain": _labelled()},
        shapes=_POINTWISE_SHAPES,
        gradients=(0,),
    ),
    _case(
        "hinge_embedding_loss",
        "HingeEmbeddingLoss",
        variants={"plain": _labelled(), "margin": _labelled(margin=0.3)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0,),
        # A distance below 0 is one.
        nonnegative=False,
    ),
    _case(
        "margin_ranking_loss",
        "MarginRankingLoss",
        variants={"plain": _ranked(), "margin": _ranked(margin=0.7)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1, 2),
        kernel_gradients=(0, 1),
    ),
    _case(
        "kl_div",
        "KLDivLoss",
        variants={"plain": _distributions(), "log_target": _distributions(log_target=True)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        kernel_gradients=(0, 1),
        nonnegative=False,
    ),
    _case(
        "poisson_nll_loss",
        "PoissonNLLLoss",
        variants={
            "plain": _counts(),
            "full": _counts(full=True),
            "rate": _counts(log_input=False),
            "rate full": _counts(log_input=False, full=True, eps=0.125),
        },
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1),
        nonnegative=False,
    ),
    _case(
        "gaussian_nll_loss",
        "GaussianNLLLoss",
        variants={"plain": _with_variance(), "full": _with_variance(full=True)},
        shapes=_POINTWISE_SHAPES,
        gradients=(0, 1, 2),
        kernel_gradients=(0, 1, 2),
        nonnegative=False,
    ),
)

# Losses whose arguments are not an input and a target of its rows, and why the tests over `CASES` cannot take them.
# Each has a file of its own that asks the same of it. What concerns arguments alone runs over `ALL_CASES`.
APART = {
    "clip_loss": "each pair is compared with all others, and torch lacks it (tests/test_contrastive.py)",
    "ctc_loss": "the samples lie in dim 1 and differ in length, torch has neither half precision nor second "
    "derivatives, and its gradient is that of normalised log-probabilities (tests/test_ctc.py)",
    "info_nce": "each pair is compared with all others, and torch lacks it (tests/test_contrastive.py)",
    "linear_cross_entropy": "no row of the loss is a row of linear_weight, and the class holds parameters "
    "(tests/test_linear_cross_entropy.py)",
    "siglip_loss": "each pair is compared with all others, and torch lacks it (tests/test_contrastive.py)",
    "triplet_margin_with_distance_loss": "it takes a function and has no kernel (tests/test_embedding.py)",
}


def _sequences(
    *,
    concatenated: bool = False,
    numbers: bool = False,
    impossible: bool = False,
    blank: int = 0,
    index_dtype: torch.dtype = torch.int64,
    **kwargs: Any,
) -> Maker:
    """(T, N, C) or (T, C): lengths from 0 to all, labels that repeat, padding that is no label."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        frames, classes, batch = shape[0], shape[-1], shape[1] if len(shape) == 3 else 1
        log_probs = torch.log_softmax(_normal(shape, torch.float64, generator), -1).to(dtype)
        others = [index for index in range(classes) if index != blank]
        longest = max(frames // 2, 1)
        labels = torch.tensor(others)[torch.randint(len(others), (batch, longest), generator=generator)]
        labels[:, 1::3] = labels[:, ::3][:, : labels[:, 1::3].shape[1]]
        counts = torch.randint(0, longest + 1, (batch,), generator=generator)
        repeats = (labels[:, 1:] == labels[:, :-1]) & (torch.arange(1, longest) < counts.unsqueeze(1))
        needed = counts + repeats.sum(1)
        while not impossible and bool((needed > frames).any()):
            counts = counts.clamp(max=int(counts.max()) - 1)
            repeats = (labels[:, 1:] == labels[:, :-1]) & (torch.arange(1, longest) < counts.unsqueeze(1))
            needed = counts + repeats.sum(1)
        given = torch.randint(0, frames + 1, (batch,), generator=generator).maximum(needed).clamp(max=frames)
        given[0] = frames
        if impossible:
            # The last sample has fewer frames than labels.
            counts[-1], given[-1] = longest, longest - 1
        inside = torch.arange(longest) < counts.unsqueeze(1)
        targets = labels[inside] if concatenated else torch.where(inside, labels, 77)
        if len(shape) == 2:
            targets = targets.reshape(-1)[: int(counts[0])]
        lengths = {"input_lengths": given, "target_lengths": counts}
        if numbers:
            lengths = {name: tuple(value.tolist()) for name, value in lengths.items()}
        extra = {"blank": blank} if blank else {}
        return Call(log_probs, targets.to(index_dtype), {**lengths, **extra, **kwargs})

    return make


def _layers(*, bias: bool = False, **kwargs: Any) -> Maker:
    """(N, K) or (K): a layer of five classes, or a map of them, and a target for it."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        batch, features = shape[:-1], shape[-1]
        places = (3, 2) if kwargs.get("places") else ()
        options = {name: value for name, value in kwargs.items() if name != "places"}
        target = _classes(**options)((*batch, 5, *places), dtype, generator)
        weight = _normal((5, *places, features), dtype, generator, 0.5)
        extra = {"linear_bias": _normal((5, *places), dtype, generator)} if bias else {}
        data = {"target": target.target, **target.kwargs, **extra}
        return Call(_normal(shape, dtype, generator), weight, data)

    return make


APART_CASES = (
    _case(
        "ctc_loss",
        "CTCLoss",
        variants={
            "plain": _sequences(),
            "concatenated": _sequences(concatenated=True),
            "numbers": _sequences(numbers=True),
            "int32": _sequences(index_dtype=torch.int32),
            "last blank": _sequences(blank=2),
            "impossible": _sequences(impossible=True),
            "zero_infinity": _sequences(impossible=True, zero_infinity=True),
        },
        shapes=((5, 3, 3), (4, 3), (1, 1, 3), (6, 2, 4)),
        gradients=(0,),
        halves_in_torch=False,
    ),
    _case(
        "linear_cross_entropy",
        "LinearCrossEntropyLoss",
        variants={
            "plain": _layers(),
            "bias": _layers(bias=True),
            "weight": _layers(weight=True),
            "ignore": _layers(ignore=True, weight=True),
            "smoothing": _layers(label_smoothing=0.1, bias=True),
            "probabilities": _layers(probabilities=True, bias=True),
        },
        shapes=((6, 4), (4,), (1, 1), (33, 17), (0, 4)),
        gradients=(0, 1),
    ),
)


def _pairs(*, negatives: str = "", **kwargs: Any) -> Maker:
    """Two vectors that resemble each other for each sample, and vectors that belong to none."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Call:
        common = _normal(shape, torch.float64, generator)
        one, other = (common + _normal(shape, torch.float64, generator, 1.0) for _ in range(2))
        extra = {}
        if negatives:
            leading = (3,) if negatives == "shared" else (shape[0], 4)
            extra["negatives"] = _normal((*leading, shape[1]), dtype, generator)
        return Call(one.to(dtype), other.to(dtype), {**kwargs, **extra})

    return make


_PAIR_SHAPES = ((6, 5), (1, 1), (3, 1), (33, 17), (0, 4))
# Losses of vectors that torch lacks.
CONTRASTIVE_CASES = (
    _case(
        "clip_loss",
        "CLIPLoss",
        torch_function=_by_textbook(oracles.clip_loss),
        variants={
            "plain": _pairs(logit_scale=5.0),
            "as they are": _pairs(logit_scale=0.25, normalize=False),
            "learned": _pairs(logit_scale=torch.tensor(3.0)),
        },
        shapes=_PAIR_SHAPES,
        gradients=(0, 1),
        rows=True,
        matrix=True,
        convex=False,
    ),
    _case(
        "info_nce",
        "InfoNCELoss",
        torch_function=_by_textbook(oracles.info_nce),
        variants={
            "plain": _pairs(),
            "as they are": _pairs(temperature=2.0, normalize=False),
            "learned": _pairs(temperature=torch.tensor(0.5)),
            "shared negatives": _pairs(negatives="shared", temperature=0.5),
            "own negatives": _pairs(negatives="own", temperature=0.5, normalize=False),
        },
        shapes=_PAIR_SHAPES,
        gradients=(0, 1),
        rows=True,
        matrix=True,
        convex=False,
    ),
    _case(
        "siglip_loss",
        "SigLIPLoss",
        torch_function=_by_textbook(oracles.siglip_loss),
        variants={
            "plain": _pairs(logit_scale=10.0, logit_bias=-10.0),
            "as they are": _pairs(logit_scale=0.25, normalize=False),
            "learned": _pairs(logit_scale=torch.tensor(3.0), logit_bias=torch.tensor([-2.0])),
        },
        shapes=_PAIR_SHAPES,
        gradients=(0, 1),
        rows=True,
        matrix=True,
        convex=False,
    ),
)
# Those that PyTorch has too, and all.
TORCH_CASES = CASES + APART_CASES
ALL_CASES = TORCH_CASES + CONTRASTIVE_CASES

BY_NAME = {case.name: case for case in CASES}
REDUCTIONS = ("none", "mean", "sum")
KERNEL_DTYPES = (torch.float32, *HALVES)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# (case, name of a variant) for `pytest.mark.parametrize`.
VARIANTS = [
    pytest.param(case, variant, id=f"{case.name}-{variant.replace(' ', '_')}")
    for case in CASES
    for variant in case.variants
]
