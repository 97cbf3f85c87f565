"""How near is near enough: the measure is the error of eager PyTorch in the same dtype; no constant stands alone."""

import torch
from cases import Call, Case
from torch import Tensor


def _as_rows(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def assert_as_exact(
    ours: Tensor,
    exact: Tensor,
    eager: Tensor | None = None,
    *,
    steps: float = 4,
    scale: float | None = None,
    what: str = "result",
) -> None:
    """error(ours) ≤ 2·error(eager) + steps·eps·scale, against `exact` in float64; inf and NaN in the same places.

    `scale` is the largest magnitude of `exact` unless it is given, as for a sum in which terms cancel.
    """
    assert ours.shape == exact.shape, f"{what}: shape {tuple(ours.shape)} instead of {tuple(exact.shape)}"
    ours, exact = _as_rows(ours.detach()), _as_rows(exact.detach())
    form = torch.finfo(ours.dtype)
    rounded = exact.to(ours.dtype)
    finite = rounded.isfinite()
    odd = ours[~finite]
    torch.testing.assert_close(
        odd,
        rounded[~finite],
        rtol=0,
        atol=0,
        equal_nan=True,
        msg=lambda text: f"{what}, where it is not finite: {text}",
    )
    if not bool(finite.any()):
        return
    values, truth = ours[finite].double(), exact[finite].double()
    assert bool(values.isfinite().all()), f"{what}: not finite where it should be {truth[~values.isfinite()][:5]}"
    magnitude = float(truth.abs().max()) if scale is None else scale
    if ours.dtype == torch.float64:
        # Then `exact` was rounded no better.
        steps *= 4
    # Two numbers of a format are at least its smallest step apart; the exponentials of the kernels end with float32's
    # normal numbers.
    smallest = max(form.smallest_normal * form.eps, torch.finfo(torch.float32).smallest_normal)
    if ours.dtype == torch.float64:
        smallest = form.smallest_normal
    bound = steps * max(form.eps * magnitude, smallest)
    if eager is not None:
        theirs = _as_rows(eager.detach())[finite].double()
        error = (theirs - truth)[theirs.isfinite()].abs()
        bound += 2 * float(error.max()) if error.numel() else 0.0
    worst = float((values - truth).abs().max())
    assert worst <= bound, f"{what}: error {worst:.3g} above {bound:.3g} (magnitude {magnitude:.3g}, {ours.dtype})"


def parts(case: Case, call: Call, gradient: Tensor) -> dict[str, Tensor]:
    """The gradient by the input in parts of one scale each: the target's column apart from the others."""
    if not case.classes or call.target.is_floating_point() or gradient.numel() == 0:
        return {"all": gradient}
    axis = 1 if gradient.ndim > 1 else 0
    classes = gradient.shape[axis]
    index = call.target.reshape(case.loss_shape(call)).long()
    inside = (index >= 0) & (index < classes)
    column = torch.zeros_like(gradient, dtype=torch.bool)
    column.scatter_(axis, torch.where(inside, index, 0).unsqueeze(axis), inside.unsqueeze(axis))
    return {"target column": gradient[column], "other columns": gradient[~column]}


def assert_gradient_as_exact(
    case: Case,
    call: Call,
    ours: Tensor,
    exact: Tensor,
    eager: Tensor | None = None,
    *,
    steps: float = 8,
    floor: float = 0.0,
) -> None:
    """The gradient by the input, each part by itself. `floor` is a scale that no part goes below."""
    assert ours.shape == exact.shape
    theirs = parts(case, call, eager) if eager is not None else {}
    for name, part in parts(case, call, ours).items():
        truth = parts(case, call, exact)[name]
        finite = truth[truth.isfinite()].abs()
        scale = max(floor, float(finite.max()) if finite.numel() else 0.0)
        assert_as_exact(part, truth, theirs.get(name), steps=steps, scale=scale, what=f"gradient by input, {name}")


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.element_size()]
    a, b = a.detach().contiguous(), b.detach().contiguous()
    assert torch.equal(a.view(integer), b.view(integer)), (
        f"bits differ in {int((a.view(integer) != b.view(integer)).sum())}"
    )
