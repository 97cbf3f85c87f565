"""A linear layer and the loss of its scores in one module."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from losskit import functional
from losskit.core import inputs
from losskit.errors import LosskitValueError
from losskit.modules._head import check_head, parts_of
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

    # For modules that were pickled without them.
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    return_stats: bool = False
    shift: int = 0

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
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        return_stats: bool = False,
        shift: int = 0,
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
        inputs.score_options(name, z_loss, softcap, logit_scale, return_stats)
        inputs.check_shift(name, shift)
        inputs.bytes_of(name, "workspace", workspace)
        inputs.filter_bound(name, filter_eps)
        self.reduction = reduction
        self.on_empty = on_empty
        self.out_dtype = out_dtype
        self.z_loss = z_loss
        self.softcap = softcap
        self.logit_scale = logit_scale
        self.return_stats = return_stats
        self.shift = shift
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

    @classmethod
    def from_linear(cls, head: nn.Module, **options: Any) -> "LinearCrossEntropyLoss":
        """The loss of the scores that an existing output layer gives, whose parameters it shares.

        **Args**: `head`: an `nn.Linear`, whose weight may be tied to an embedding, or one that LoRA wraps as `peft`
        does it: the criterion then trains the adapters. `options`: those of the constructor after the layer's own.

        **Raises**: TypeError for any other head.

        **Example**:

        >>> import torch
        >>> head = torch.nn.Linear(2, 3)
        >>> criterion = LinearCrossEntropyLoss.from_linear(head, shift=1)
        >>> criterion.linear is head
        True
        """
        check_head(f"{cls.__name__}.from_linear", head)
        base: Any = getattr(head, "base_layer", head)
        # The layer that the constructor makes takes no memory, and gives way to the head.
        out_features = options.get("out_features", ())
        places = math.prod(out_features)
        if not places or base.out_features % places:
            raise LosskitValueError(
                f"{cls.__name__}.from_linear: out_features {tuple(out_features)} must divide the {base.out_features} "
                "scores of head."
            )
        criterion = cls(
            base.in_features, base.out_features // places, bias=base.bias is not None, device="meta", **options
        )
        criterion.linear = head  # type: ignore[assignment]  # or one that LoRA wraps
        return criterion

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Any:
        shape = (self.num_classes, *self.out_features)
        input, weight, bias = parts_of(type(self).__name__, self.linear, input)
        return functional.linear_cross_entropy(
            input,
            weight.reshape(*shape, weight.shape[-1]),
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
            z_loss=self.z_loss,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            return_stats=self.return_stats,
            shift=self.shift,
            workspace=self.workspace,
            filter_eps=self.filter_eps,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        layer: Any = getattr(self.linear, "base_layer", self.linear)
        return (
            f"in_features={layer.in_features}, num_classes={self.num_classes}, out_features={self.out_features}, "
            f"bias={layer.bias is not None}, reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )
