"""Losses of a distribution, or of its parameters."""

import warnings

import torch
from torch import Tensor
from torch.compiler import is_compiling

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast, common_dtype, floating_dtype
from losskit.core.reduction import WITH_BATCHMEAN, Options, legacy_reduction
from losskit.families import fused as fused_family
from losskit.kernels import cpu
from losskit.losses import distribution as definitions


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Negative log-likelihood of a normal variable: (log v + (x − y)²/v)/2, v = max(var, eps).

    **Equivalent to**: `-torch.distributions.Normal(input, var.sqrt()).log_prob(target).mean()`, without log(2π)/2

    **Args**: `input`: expectations x, real. `target`: y, of a shape that broadcasts. `var`: variances, ≥ 0: of the
    shape of input, or that with one dimension of size 1, or without its last dimension, or one float for all. `full`:
    add log(2π)/2. `eps`: the least variance. `reduction`: `"none"`, `"mean"`, `"sum"`. The other keywords are described
    at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in nats. `mean` divides by the number
    of losses.

    **Gradient**: by input and target: ±(x − y)/v; by var: (1/v − (x − y)²/v²)/2, also where var < eps: eps bounds the
    value and does not stop the gradient.

    **Edge cases**: NaN comes through. An empty mean is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction, a negative variance and a var of another shape, TypeError for a var
    that is neither a tensor nor a float, RuntimeError for shapes that do not broadcast and bool tensors,
    NotImplementedError for complex tensors and integer variances.

    **Example**:

    >>> gaussian_nll_loss(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]), torch.tensor([1.0, 4.0]))
    tensor(0.4091)

    **Source**: Nix and Weigend, Estimating the mean and variance of the target probability distribution (1994),
    equation 5.
    """
    if (
        sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and backend == "auto"
        and on_empty == "nan"
        and not is_compiling()
        and not dispatch.watchers
        and type(eps) is float
        and type(full) is bool
        and isinstance(var, Tensor)
    ):
        parameters = (eps, definitions.HALF_LOG_TWO_PI if full else 0.0)
        result = cpu.lean_fused(cpu.GAUSSIAN_NLL, reduction, parameters, input, target, var)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.GAUSSIAN_NLL,
                parameters,
                reduction,
                (input, target, var),
                gaussian_nll_loss,
                {"full": full, "eps": eps},
            )
        if result is not None:
            return result
    name = "gaussian_nll_loss"
    inputs.check_tensors_and_options(name, input, target, None, reduction, on_empty, out_dtype, backend)
    inputs.check_number(name, "eps", eps)
    inputs.check_devices(name, input=input, target=target, var=var if isinstance(var, Tensor) else None)
    inputs.check_arithmetic(name, input=input, target=target)
    inputs.check_not_bool(name, input=input, target=target)
    variance = inputs.variance_of(name, input, var)
    shape = inputs.common_shape(name, input=input, target=target, var=variance)
    dtype = floating_dtype(input, target, variance) if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.GAUSSIAN_NLL,
        lambda x, y, v: definitions.gaussian_nll_loss(x, y, v, full, eps),
        (input, target, variance),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        parameters=(float(eps), definitions.HALF_LOG_TWO_PI if full else 0.0),
    )


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Kullback-Leibler divergence of a distribution from another, by parts: y·(log y − x).

    **Equivalent to**: `(target * (target.log() - input)).mean()`

    **Args**: `input`: log-probabilities x, floating point. `target`: probabilities y, or log y with `log_target`; of a
    shape that broadcasts. `size_average`, `reduce`: PyTorch's deprecated flags; they win over `reduction`.
    `reduction`: `"none"`, `"mean"`, `"sum"`, or `"batchmean"`, which is the divergence as it is defined, the mean over
    samples: the sum divided by the length of the first axis. `log_target`: whether target holds logarithms. The other
    keywords are described at the head of `losskit.functional`; with them `"batchmean"` counts as many samples as the
    share of the losses that count.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in nats. `mean` divides by the number
    of losses, and warns that it does.

    **Gradient**: by input: −y; by target: log y + 1 − x, which is NaN at y = 0, and y·(log y + 1 − x) by log y.

    **Edge cases**: where y is 0, so is the loss, also of x = −inf, which is NaN for PyTorch. NaN comes through, and is
    the loss of a negative y. An empty mean is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction, TypeError for a log_target that is no bool, RuntimeError for shapes
    that do not broadcast, NotImplementedError for integer or complex tensors.

    **Example**:

    >>> log_probs = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    >>> kl_div(log_probs, torch.tensor([[0.5, 0.5], [0.5, 0.5]]), reduction="batchmean")
    tensor(0.0719)

    **Source**: Kullback and Leibler, On information and sufficiency (1951).
    """
    # A traced graph has no place for a warning.
    if reduction == "mean" and size_average is None and reduce is None and not is_compiling():
        warnings.warn(
            "kl_div: reduction='mean' divides by the number of elements; the divergence of distributions, which is the "
            "mean over samples, is reduction='batchmean'.",
            UserWarning,
            stacklevel=2,
        )
    if (
        sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and size_average is None
        and reduce is None
        and backend == "auto"
        and on_empty == "nan"
        and not is_compiling()
        and not dispatch.watchers
        and type(log_target) is bool
    ):
        parameters = (float(log_target),)
        result = cpu.lean_fused(cpu.KL_DIV, reduction, parameters, input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result, cpu.KL_DIV, parameters, reduction, (input, target), kl_div, {"log_target": log_target}
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "kl_div"
    inputs.check_tensor(name, "input", input)
    inputs.check_tensor(name, "target", target)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend, WITH_BATCHMEAN)
    inputs.check_bool(name, "log_target", log_target)
    inputs.check_devices(name, input=input, target=target)
    input, target = autocast(input, target)
    inputs.check_floating(name, "input", input)
    inputs.check_floating(name, "target", target)
    shape = inputs.common_shape(name, input=input, target=target)
    dtype = common_dtype(input, target) if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.KL_DIV,
        lambda x, y: definitions.kl_div(x, y, log_target),
        (input, target),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        parameters=(float(log_target),),
    )


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Negative log-likelihood of a count: λ − y·log λ, with λ = exp(x).

    **Equivalent to**: `(input.exp() - target * input).mean()`

    **Args**: `input`: log-rates x, or rates with `log_input=False`; real. `target`: counts y, of a shape that
    broadcasts. `log_input`: whether input holds logarithms; else the loss is x − y·log(x + eps). `full`: add Stirling's
    approximation of log y!, y·log y − y + log(2π·y)/2, where y > 1. `size_average`, `reduce`: PyTorch's deprecated
    flags; they win over `reduction`. `eps`: keeps the logarithm of a rate of 0 finite. `reduction`: `"none"`, `"mean"`,
    `"sum"`. The other keywords are described at the head of `losskit.functional`.

    **Returns**: a 0-dim tensor, or the broadcast shape with `reduction="none"`; in nats. `mean` divides by the number
    of losses.

    **Gradient**: by input: λ − y, or 1 − y/(x + eps); by target: −log λ, with `full` also log y + 1/2y where y > 1.

    **Edge cases**: a count of 0 at a rate of 0 costs nothing, which is NaN for PyTorch where the log-rate is −inf. NaN
    comes through, and is the loss of a negative rate. An empty mean is NaN, an empty sum 0.

    **Raises**: ValueError for an unknown reduction, TypeError for a log_input or full that is no bool, RuntimeError for
    shapes that do not broadcast and for bool tensors where PyTorch has no arithmetic for them, NotImplementedError for
    complex tensors.

    **Example**:

    >>> poisson_nll_loss(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    tensor(0.8591)
    """
    if (
        sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and size_average is None
        and reduce is None
        and backend == "auto"
        and on_empty == "nan"
        and not is_compiling()
        and not dispatch.watchers
        and type(log_input) is bool
        and type(full) is bool
        and type(eps) is float
    ):
        parameters = (eps, float(log_input), float(full))
        result = cpu.lean_fused(cpu.POISSON_NLL, reduction, parameters, input, target)
        if isinstance(result, list):
            return cpu.join_lean_fused(
                result,
                cpu.POISSON_NLL,
                parameters,
                reduction,
                (input, target),
                poisson_nll_loss,
                {"log_input": log_input, "full": full, "eps": eps},
            )
        if result is not None:
            return result
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    name = "poisson_nll_loss"
    inputs.check_tensors_and_options(name, input, target, None, reduction, on_empty, out_dtype, backend)
    inputs.check_bool(name, "log_input", log_input)
    inputs.check_bool(name, "full", full)
    inputs.check_number(name, "eps", eps)
    inputs.check_devices(name, input=input, target=target)
    input, target = autocast(input, target)
    inputs.check_arithmetic(name, input=input, target=target)
    if full or target.dtype == input.dtype:
        inputs.check_not_bool(name, target=target)
    if not log_input:
        inputs.check_not_bool(name, input=input)
    shape = inputs.common_shape(name, input=input, target=target)
    if not input.is_floating_point():
        # As its exponential or logarithm would be.
        input = input.to(torch.get_default_dtype())
    dtype = floating_dtype(input, target) if out_dtype is None else out_dtype
    return fused_family.fused_loss(
        name,
        cpu.POISSON_NLL,
        lambda x, y: definitions.poisson_nll_loss(x, y, log_input, full, eps),
        (input, target),
        shape,
        Options(reduction, sample_weight, mask, normalizer, on_empty, dtype, backend),
        parameters=(float(eps), float(log_input), float(full)),
    )
