"""Losses of pairs of vectors, each pair against all the others."""

import math

import torch
from torch import Tensor, nn

from losskit import functional
from losskit.core import inputs
from losskit.errors import LosskitValueError
from losskit.modules._options import Options


class _OfPairs(Options):
    """The options that the losses of pairs share."""

    def __init__(
        self,
        normalize: bool,
        reduction: str,
        on_empty: str,
        out_dtype: torch.dtype | None,
        workspace: int | str,
        backend: str,
    ) -> None:
        nn.Module.__init__(self)
        name = type(self).__name__
        inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
        inputs.check_bool(name, "normalize", normalize)
        inputs.bytes_of(name, "workspace", workspace)
        self.normalize = normalize
        self.reduction = reduction
        self.on_empty = on_empty
        self.out_dtype = out_dtype
        self.workspace = workspace
        self.backend = backend


class InfoNCELoss(_OfPairs):
    """Each query against all keys, or its key and the negatives: `losskit.functional.info_nce` with its options.

    With `learn_temperature` the parameter `log_temperature`, whose exponential is `temperature`, is learned.

    **Example**:

    >>> import torch
    >>> query, key = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> InfoNCELoss(temperature=0.5)(query, key)
    tensor(0.3301)
    """

    def __init__(
        self,
        temperature: float = 0.07,
        normalize: bool = True,
        reduction: str = "mean",
        *,
        learn_temperature: bool = False,
        on_empty: str = "nan",
        out_dtype: torch.dtype | None = None,
        workspace: int | str = "256MiB",
        backend: str = "auto",
    ) -> None:
        super().__init__(normalize, reduction, on_empty, out_dtype, workspace, backend)
        inputs.check_bool(type(self).__name__, "learn_temperature", learn_temperature)
        logarithm = _logarithm(type(self).__name__, "temperature", temperature)
        self.log_temperature = nn.Parameter(logarithm) if learn_temperature else None
        self._temperature = float(temperature)

    @property
    def temperature(self) -> float | Tensor:
        """What the similarities are divided by."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        negatives: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.info_nce(
            query,
            key,
            negatives,
            temperature=self.temperature,
            normalize=self.normalize,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            workspace=self.workspace,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        with torch.no_grad():
            shown = f"temperature={float(self.temperature):g}, learn_temperature={self.log_temperature is not None}"
        return f"{shown}, normalize={self.normalize}, reduction={self.reduction}"


class CLIPLoss(_OfPairs):
    """Images against texts, and a factor that is learned: `losskit.functional.clip_loss` with its options.

    The parameter `log_scale` is the logarithm of the factor, and `logit_scale` the factor. It begins at `init_scale`,
    1/0.07; above `max_scale`, 100, it is set back to that before each call, as in the paper, or never with None.

    **Example**:

    >>> import torch
    >>> criterion = CLIPLoss(init_scale=2.0)
    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> criterion(image, text).detach()
    tensor(0.3701)
    >>> criterion.logit_scale.detach()
    tensor(2.)
    """

    def __init__(
        self,
        init_scale: float = 1 / 0.07,
        max_scale: float | None = 100.0,
        normalize: bool = True,
        reduction: str = "mean",
        *,
        on_empty: str = "nan",
        out_dtype: torch.dtype | None = None,
        workspace: int | str = "256MiB",
        backend: str = "auto",
    ) -> None:
        super().__init__(normalize, reduction, on_empty, out_dtype, workspace, backend)
        self.log_scale = nn.Parameter(_logarithm(type(self).__name__, "init_scale", init_scale))
        if max_scale is not None:
            _logarithm(type(self).__name__, "max_scale", max_scale)
        self.max_scale = max_scale

    @property
    def logit_scale(self) -> Tensor:
        """What the similarities are multiplied by."""
        return self.log_scale.exp()

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Set the factor back to `max_scale` where it is above. Each call of the criterion begins with it."""
        if self.max_scale is not None:
            self.log_scale.clamp_(max=math.log(self.max_scale))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        self.limit_scale()
        return functional.clip_loss(
            image_features,
            text_features,
            self.logit_scale,
            normalize=self.normalize,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            workspace=self.workspace,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"max_scale={self.max_scale}, normalize={self.normalize}, reduction={self.reduction}"


class SigLIPLoss(_OfPairs):
    """Images against texts, with a factor and a bias that are learned: `losskit.functional.siglip_loss`.

    The parameter `log_scale` is the logarithm of the factor, which begins at `init_scale`, 10, and `logit_scale` the
    factor; the parameter `logit_bias` begins at `init_bias`, −10, as in the paper: of all pairs few belong together.

    **Example**:

    >>> import torch
    >>> criterion = SigLIPLoss(init_scale=2.0, init_bias=-1.0)
    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> criterion(image, text).detach()
    tensor(1.0277)
    """

    def __init__(
        self,
        init_scale: float = 10.0,
        init_bias: float = -10.0,
        normalize: bool = True,
        reduction: str = "mean",
        *,
        on_empty: str = "nan",
        out_dtype: torch.dtype | None = None,
        workspace: int | str = "256MiB",
        backend: str = "auto",
    ) -> None:
        super().__init__(normalize, reduction, on_empty, out_dtype, workspace, backend)
        inputs.check_number(type(self).__name__, "init_bias", init_bias)
        self.log_scale = nn.Parameter(_logarithm(type(self).__name__, "init_scale", init_scale))
        self.logit_bias = nn.Parameter(torch.tensor(float(init_bias)))

    @property
    def logit_scale(self) -> Tensor:
        """What the similarities are multiplied by."""
        return self.log_scale.exp()

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return functional.siglip_loss(
            image_features,
            text_features,
            self.logit_scale,
            self.logit_bias,
            normalize=self.normalize,
            reduction=self.reduction,
            sample_weight=sample_weight,
            mask=mask,
            normalizer=normalizer,
            on_empty=self.on_empty,
            out_dtype=self.out_dtype,
            workspace=self.workspace,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return f"normalize={self.normalize}, reduction={self.reduction}"


def _logarithm(name: str, argument: str, scale: float) -> Tensor:
    inputs.check_number(name, argument, scale)
    if not (0 < scale < math.inf):
        raise LosskitValueError(f"{name}: {argument} must be positive and finite, got {scale:g}.")
    return torch.tensor(math.log(scale))
