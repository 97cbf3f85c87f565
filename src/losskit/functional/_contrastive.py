"""Losses of pairs of vectors, each pair against all the others."""

import torch
from torch import Tensor

from losskit.core import inputs
from losskit.core.precision import autocast_enabled, widen
from losskit.core.reduction import Options
from losskit.families import contrastive as family


def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    workspace: int | str = "256MiB",
    backend: str = "auto",
) -> Tensor:
    """InfoNCE: each query must find its own key among all keys, or among its key and the negatives.

    log Σ_j exp(q_n·k_j / τ) − q_n·k_n / τ for vectors of length 1; with negatives, j goes over k_n and them alone.

    **Equivalent to**:

        logits = normalize(query, dim=1) @ normalize(key, dim=1).T / temperature
        cross_entropy(logits, torch.arange(len(query)))

    **Args**: `query`, `key`: vectors (N, D), floating point, of one dtype; the n-th key belongs to the n-th query.
    `negatives`: vectors that belong to no query, the same for each, (M, D), or others for each, (N, M, D); without them
    the keys of the others are the negatives. `temperature`: τ, above 0: a number, or a tensor of one number, which may
    be learned. `normalize`: whether to divide each vector by its length first, as the papers do; False takes the
    vectors as they are. `reduction`: `"none"`, `"mean"`, `"sum"`. `workspace`: how much memory the similarities may
    take at a time, a number of bytes or a text such as "256MiB". The other keywords are described at the head of
    `losskit.functional`; what `mask` leaves out is no negative of the others either.

    **Returns**: a 0-dim tensor, or (N) with `reduction="none"`; in nats. `mean` divides by the number of queries.

    **Gradient**: by query, key, negatives and temperature; a vector of zeros, which has no direction, gets 0.

    **Edge cases**: the similarity with a vector of zeros is 0. One query without negatives has nothing to be told from:
    its loss is 0. An empty mean is NaN, an empty sum 0. A NaN in a query is that query's, one in a key is in all
    losses. float16 and bfloat16 are computed in float32, also under autocast. On the CPU no more similarities exist
    than `workspace` holds; derivatives of the gradient need all of them at once.

    **Raises**: ValueError for batch sizes that differ, a temperature of 0 or below and an unknown reduction;
    RuntimeError for other shapes, dtypes or devices that do not go together.

    **Example**:

    >>> query, key = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> info_nce(query, key, temperature=0.5)
    tensor(0.3301)

    **Source**: van den Oord et al. 2018, equation 4; He et al. 2020, equation 1, for the temperature and the negatives
    """
    name = "info_nce"
    call = checked_pairs(
        name,
        {"query": query, "key": key},
        normalize,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
        workspace,
    )
    scale = checked_temperature(name, query, temperature)
    if negatives is None:
        return family.info_nce(call, query, key, scale)
    checked_negatives(name, query, negatives)
    return family.info_nce_of_negatives(call, query, key, negatives, scale)


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    workspace: int | str = "256MiB",
    backend: str = "auto",
) -> Tensor:
    """CLIP: each image must find its text among all texts, and each text its image.

    ½·(log Σ_j exp(s·x_n·y_j) + log Σ_j exp(s·x_j·y_n)) − s·x_n·y_n for vectors of length 1.

    **Equivalent to**:

        logits = logit_scale * normalize(image_features, dim=1) @ normalize(text_features, dim=1).T
        own = torch.arange(len(logits))
        (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2

    **Args**: `image_features`, `text_features`: x and y, vectors (N, D), floating point, of one dtype; the n-th text
    belongs to the n-th image. `logit_scale`: s, the factor itself and not its logarithm: a number, or a tensor of one
    number, such as `parameter.exp()`. `normalize`: whether to divide each vector by its length first, as the paper
    does; of vectors that have the length 1 already it changes nothing. `reduction`: `"none"`, `"mean"`, `"sum"`.
    `workspace`: how much memory the similarities may take at a time, a number of bytes or a text such as "256MiB". The
    other keywords are described at the head of `losskit.functional`; what `mask` leaves out is no negative of the
    others either.

    **Returns**: a 0-dim tensor, or (N) with `reduction="none"`; in nats. `mean` divides by the number of pairs.

    **Gradient**: by image_features, text_features and logit_scale; a vector of zeros, which has no direction, gets 0.

    **Edge cases**: the similarity with a vector of zeros is 0. The loss of a single pair is 0, since there is nothing
    to tell it from. An empty mean is NaN, an empty sum 0; a NaN comes into every loss. float16 and bfloat16 are
    computed in float32, also under autocast. On the CPU no more similarities exist than `workspace` holds; derivatives
    of the gradient need all of them at once.

    **Raises**: ValueError for batch sizes that differ and an unknown reduction, RuntimeError for other shapes, dtypes
    or devices that do not go together.

    **Example**:

    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> clip_loss(image, text, 2.0)
    tensor(0.3701)

    **Source**: Radford et al. 2021, figure 3
    """
    name = "clip_loss"
    call = checked_pairs(
        name,
        {"image_features": image_features, "text_features": text_features},
        normalize,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
        workspace,
    )
    scale = checked_number(name, image_features, "logit_scale", logit_scale)
    return family.clip_loss(call, image_features, text_features, scale)


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    normalize: bool = True,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    workspace: int | str = "256MiB",
    backend: str = "auto",
) -> Tensor:
    """SigLIP: whether an image and a text belong together is a yes or no of its own, for each of all pairs.

    Σ_j log(1 + exp(−z_nj·(s·x_n·y_j + b))), z_nj being 1 for j = n and −1 elsewhere, for vectors of length 1.

    **Equivalent to**:

        logits = logit_scale * normalize(image_features, dim=1) @ normalize(text_features, dim=1).T + logit_bias
        signs = 2 * torch.eye(len(logits)) - 1
        -logsigmoid(signs * logits).sum() / len(logits)

    **Args**: `image_features`, `text_features`: x and y, vectors (N, D), floating point, of one dtype; the n-th text
    belongs to the n-th image. `logit_scale`: s, the factor itself and not its logarithm: a number, or a tensor of one
    number, such as `parameter.exp()`. `logit_bias`: b, the same; None is 0. `normalize`: whether to divide each vector
    by its length first, as the paper does; of vectors that have the length 1 already it changes nothing. `reduction`:
    `"none"`, `"mean"`, `"sum"`. `workspace`: how much memory the similarities may take at a time, a number of bytes or
    a text such as "256MiB". The other keywords are described at the head of `losskit.functional`; what `mask` leaves
    out is no negative of the others either.

    **Returns**: a 0-dim tensor, or (N), the sum over all texts for each image, with `reduction="none"`; in nats. `mean`
    divides by the number of pairs that belong together, N and not N².

    **Gradient**: by image_features, text_features, logit_scale and logit_bias; a vector of zeros, which has no
    direction, gets 0.

    **Edge cases**: the similarity with a vector of zeros is 0. An empty mean is NaN, an empty sum 0. A NaN in an image
    is that image's, one in a text is in all losses. float16 and bfloat16 are computed in float32, also under autocast.
    On the CPU no more similarities exist than `workspace` holds; derivatives of the gradient need all of them at once.

    **Raises**: ValueError for batch sizes that differ and an unknown reduction, RuntimeError for other shapes, dtypes
    or devices that do not go together.

    **Example**:

    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    >>> siglip_loss(image, text, 2.0, -1.0)
    tensor(1.0277)

    **Source**: Zhai et al. 2023, algorithm 1
    """
    name = "siglip_loss"
    call = checked_pairs(
        name,
        {"image_features": image_features, "text_features": text_features},
        normalize,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
        workspace,
    )
    scale = checked_number(name, image_features, "logit_scale", logit_scale)
    bias = checked_number(name, image_features, "logit_bias", 0.0 if logit_bias is None else logit_bias)
    return family.siglip_loss(call, image_features, text_features, scale, bias)


def checked_pairs(
    name: str, features: dict[str, Tensor], normalize: bool, options: Options, workspace: int | str
) -> family.PairsCall:
    """The call of a loss, after the checks that all of them share."""
    inputs.check_tensors(name, **features)
    inputs.check_common_options(name, options.reduction, options.on_empty, options.out_dtype, options.backend)
    inputs.check_bool(name, "normalize", normalize)
    inputs.check_devices(name, **features)
    inputs.check_pairs(name, **features)
    first = next(iter(features.values()))
    dtype = widen(first).dtype if autocast_enabled(first.device.type) else first.dtype
    out_dtype = dtype if options.out_dtype is None else options.out_dtype
    return family.PairsCall(name, normalize, options, out_dtype, inputs.bytes_of(name, "workspace", workspace))


def checked_number(name: str, features: Tensor, argument: str, value: object, positive: bool = False) -> Tensor:
    """A number beside the features, or a tensor of one."""
    number = inputs.check_one_number(name, argument, value, positive)
    if isinstance(value, Tensor):
        inputs.check_devices(name, features=features, **{argument: number})
    return number


def checked_temperature(name: str, query: Tensor, temperature: object) -> Tensor:
    """What the similarities are multiplied by."""
    return 1 / checked_number(name, query, "temperature", temperature, positive=True)


def checked_negatives(name: str, query: Tensor, negatives: Tensor) -> None:
    inputs.check_tensor(name, "negatives", negatives)
    inputs.check_devices(name, query=query, negatives=negatives)
    inputs.check_negatives(name, query, negatives)
