"""A linear layer and the loss of its scores as an operator: the scores of all rows are in no graph."""

from typing import Any

import torch
from torch import Tensor

from losskit.core.dispatch import named_backend_error
from losskit.core.reduction import Options
from losskit.core.scores import ScoreOptions
from losskit.families import linear_softmax as family
from losskit.families.operators.kept import keep, take
from losskit.families.operators.operator import Operator
from losskit.kernels import linear


def _plan(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer_tensor: Tensor | None,
    normalizer: float | None,
    function: str,
    ignore_index: int,
    label_smoothing: float,
    workspace: int,
    filter_eps: float,
    narrow: bool,
    z_loss: float,
    softcap: float | None,
    logit_scale: float,
    backend: str,
    reduction: str,
    on_empty: str,
    out_dtype: torch.dtype,
) -> tuple[family.LinearCall, linear.Plan]:
    given = normalizer if normalizer_tensor is None else normalizer_tensor
    options = Options(reduction, sample_weight, mask, given, on_empty, out_dtype, backend)
    scores = ScoreOptions(z_loss, softcap, logit_scale)
    call = family.LinearCall(
        function, weight, ignore_index, label_smoothing, options, out_dtype, workspace, filter_eps, scores, narrow
    )
    plain = family.kernel_obstacle(call, input, linear_weight, linear_bias, target)
    if plain is not None and backend == "cpu":
        raise named_backend_error(function, "cpu", plain)
    return call, family.plan_of(call, plain, input, linear_weight, linear_bias, target)


def _above_autograd() -> Any:
    """Where autograd works: an operator runs below it, and the step in plain operations differentiates."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


def _forward(*everything: Any) -> tuple[Tensor, Tensor]:
    *given, needs = everything
    tensors = tuple(given[:4])
    call, plan = _plan(*given)
    wanted = (*needs, False) if plan.total else (False,) * 4
    with _above_autograd():
        result = linear.evaluate(tensors, plan, None, 1.0, wanted, True)
    if result is None:
        raise family.range_error(call, tensors[0], tensors[1], tensors[3])
    loss, gradients = result
    return loss.to(call.out_dtype), keep(*gradients)


def _backward(grad_output: Tensor, owner: Tensor, *everything: Any) -> list[Tensor]:
    *given, needs = everything
    tensors = tuple(given[:4])
    found = take(owner) or []
    if [gradient is not None for gradient in found[:3]] == list(needs):
        gradients = linear.scaled(found, grad_output)
    else:
        del found
        arguments = (*given, tensors[0].dtype)
        _, plan = _plan(*arguments)
        with _above_autograd():
            gradients = linear.anew(tensors, plan, grad_output, (*needs, False))
    return [
        gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, tensors, strict=True)
        if gradient is not None and tensor is not None
    ]


def _fake(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, reduction, _, out_dtype, _ = rest
    shape = input.shape[:1] if reduction == "none" else ()
    return input.new_empty(shape, dtype=out_dtype), torch.empty(1, dtype=torch.uint8)


def _fake_backward(grad_output: Tensor, owner: Tensor, *everything: Any) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor, need in zip(everything[:3], everything[-1], strict=True) if need]


def _differentiate(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    gradients = iter(
        torch.ops.losskit.linear_cross_entropy_backward.default(grad_output, *ctx.saved_tensors, *ctx.options, needs)
    )
    return [next(gradients) if need else None for need in needs]


OPERATOR = Operator(
    "linear_cross_entropy",
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight, Tensor? sample_weight, "
    "Tensor? mask, Tensor? normalizer_tensor",
    "float? normalizer, str function, SymInt ignore_index, float label_smoothing, SymInt workspace, float filter_eps, "
    "bool narrow, float z_loss, float? softcap, float logit_scale, str backend, str reduction, str on_empty",
    _forward,
    _fake,
    _backward,
    _fake_backward,
    _differentiate,
    several=True,
    key="CompositeExplicitAutograd",
)
