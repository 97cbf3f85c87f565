"""One call of a loss, as the checks see it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from torch import Tensor

from losskit.diagnosis.finding import Place
from losskit.diagnosis.readable import obstacle, plain

__all__ = ["CLASS_INDEX_LOSSES", "Call", "bind"]

# What the others call input and target.
_INPUT = {
    "clip_loss": "image_features",
    "cosine_embedding_loss": "input1",
    "ctc_loss": "log_probs",
    "info_nce": "query",
    "margin_ranking_loss": "input1",
    "siglip_loss": "image_features",
    "triplet_margin_loss": "anchor",
    "triplet_margin_with_distance_loss": "anchor",
}
_TARGET = {"clip_loss": "text_features", "ctc_loss": "targets", "info_nce": "key", "siglip_loss": "text_features"}
# Those that take an index for each row of scores.
CLASS_INDEX_LOSSES = ("cross_entropy", "linear_cross_entropy", "multi_margin_loss", "nll_loss")


@dataclass
class Call:
    """A call with its arguments by name. `result` is None until the loss has been computed, and where it raised."""

    place: Place
    arguments: Mapping[str, Any]
    # Whether autograd records.
    training: bool
    # Tensors that stand for others, by id: the other has the graph.
    origins: Mapping[int, Tensor] = field(default_factory=dict)
    result: Tensor | None = None

    @property
    def function(self) -> str:
        return self.place.function

    @property
    def input(self) -> Tensor:
        tensor: Tensor = self.arguments[_INPUT.get(self.function, "input")]
        return tensor

    @property
    def input_name(self) -> str:
        return _INPUT.get(self.function, "input")

    @cached_property
    def x(self) -> Tensor:
        """The values of the input."""
        return plain(self.input)

    @cached_property
    def y(self) -> Tensor | None:
        """The values of the target, where the loss has one."""
        target = self.arguments.get(_TARGET.get(self.function, "target"))
        return plain(target) if isinstance(target, Tensor) else None

    @cached_property
    def obstacle(self) -> str | None:
        """Why nothing can be checked here, or None."""
        if not isinstance(self.arguments.get(self.input_name), Tensor):
            return "input is no tensor"
        return obstacle(*self.arguments.values())

    @cached_property
    def reduction(self) -> str:
        size_average, reduce = self.arguments.get("size_average"), self.arguments.get("reduce")
        if size_average is None and reduce is None:
            return str(self.arguments.get("reduction", "mean"))
        if reduce is not None and not reduce:
            return "none"
        return "mean" if size_average is None or size_average else "sum"

    @cached_property
    def class_dim(self) -> int:
        """The axis of the input that holds the classes, of the losses that have one."""
        if self.function == "ctc_loss":
            return self.x.ndim - 1
        return min(self.x.ndim - 1, 1)

    @cached_property
    def classes(self) -> int:
        if self.function == "linear_cross_entropy":
            return int(self.arguments["linear_weight"].shape[0])
        return int(self.x.shape[self.class_dim]) if self.x.ndim else 0

    @cached_property
    def indices(self) -> Tensor | None:
        """The target of a loss that takes class indices, where it holds some."""
        if self.function not in CLASS_INDEX_LOSSES or self.y is None:
            return None
        return None if self.y.is_floating_point() or self.y.is_complex() else self.y

    @property
    def probabilities(self) -> Tensor | None:
        """The target of a cross entropy that holds a distribution for each sample."""
        if self.function != "cross_entropy" or self.y is None or self.y.shape != self.x.shape:
            return None
        return self.y if self.y.is_floating_point() else None

    @property
    def ignore_index(self) -> int | None:
        if "ignore_index" not in self.arguments:
            return None
        given = self.arguments["ignore_index"]
        return -100 if given is None else int(given)

    @cached_property
    def mask(self) -> Tensor | None:
        """True where a loss counts, where the call says so."""
        mask = self.arguments.get("mask")
        return plain(mask) if isinstance(mask, Tensor) else None

    @cached_property
    def counted_indices(self) -> Tensor | None:
        """The class indices that are neither ignored nor masked."""
        if self.indices is None:
            return None
        if self.ignore_index is None and self.mask is None:
            return self.indices
        counts = self.indices == self.indices if self.ignore_index is None else self.indices != self.ignore_index
        return self.indices[counts if self.mask is None else counts & self.mask]

    @cached_property
    def counted(self) -> int:
        """How much of the input counts towards the mean."""
        if self.counted_indices is not None:
            return self.counted_indices.numel()
        return self.x.numel() if self.mask is None else int(self.mask.sum())

    @cached_property
    def ignores(self) -> bool:
        """Whether something does not count."""
        return self.mask is not None or (self.indices is not None and self.counted < self.indices.numel())

    @cached_property
    def value(self) -> float | None:
        """The loss as a number: the mean, where it was not reduced."""
        if self.result is None:
            return None
        result = plain(self.result)
        if result.numel() == 0:
            return None
        return float(result) if result.ndim == 0 else float(result.double().mean())


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments by name, defaults included; None where they do not fit, which the call itself will tell."""
    try:
        bound = _signature(function).bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    return dict(bound.arguments)
