"""A linear layer and the loss of its scores in one module."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from losskit import functional
from losskit.core import inputs
from losskit.modules._options import Options

# PyTorch has the class since 2.13. What is needed of it stands below, so that older versions can do without.
_Base: Any = getattr(nn, "LinearCrossEntropyLoss", nn.Module)


class LinearCrossEntropyLoss(Options, _Base):  # type: ignore[misc]  # the base depends on the version of PyTorch
    """Cross entropy of the scores of a linear layer that it holds: `losskit.functional.linear_cross_entropy`.

    `out_features` is the shape (d1, …) of a map with a score at each of its places. The layer is `self.linear`, whose
    weight has the shape (C·d1·…, K).

    **Example**:

    >>> import torch
    >>> criterion = LinearCrossEntropyLoss(2, 3)
    >>> criterion.linear.weight.data.zero_()
    tensor([[0., 0.],
            [0., 0.],
            [0., 0.]])
    >>> criterion(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))
    tensor(1.0986, grad_fn=<InChunksBackward>)
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        on_empty: str = "nan",
        out_dtype: torch.dtype | None = None,
        workspace: int | str = "256MiB",
        filter_eps: float = 0.0,
        backend: str = "auto",
    ) -> None:
        nn.Module.__init__(self)
        name = type(self).__name__
        inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
        inputs.check_label_smoothing(name, label_smoothing)
        inputs.check_linear_options(name, options)
        inputs.check_class_weight(name, weight, num_classes)
        inputs.bytes_of(name, "workspace", workspace)
        inputs.filter_bound(name, filter_eps)
        self.reduction = reduction
        self.on_empty = on_empty
        self.out_dtype = out_dtype
        self.workspace = workspace
        self.filter_eps = filter_eps
        self.backend = backend
        self.weight: Tensor | None
        self.register_buffer("weight", weight)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = nn.Linear(
            in_features, math.prod(out_features, start=num_classes), bias=bias, device=device, dtype=dtype
        )
        self.options = options

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return functional.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            workspace=self.workspace,
            filter_eps=self.filter_eps,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, out_features={self.out_features}, "
            f"bias={self.linear.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )
