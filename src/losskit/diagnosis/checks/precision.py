"""Check 11: dtypes."""

from collections.abc import Iterator

import torch

from losskit.core.precision import HALF_DTYPES
from losskit.diagnosis.call import CLASS_INDEX_LOSSES, Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import History

__all__ = ["CHECK"]

FLOAT_INDICES = Kind("float-class-indices", 11, "class indices that are floating point")
FLOAT64_TARGET = Kind("float64-target", 11, "a float64 target that widens the loss")
HALF_LOSS = Kind("half-precision-loss", 11, "a loss in half precision")

# Where the dtype of the target reaches the loss.
WITH_TARGET = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
)


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.y is None or not call.y.is_floating_point():
        return
    if call.function in CLASS_INDEX_LOSSES:
        yield from float_indices(call, call.y)
    elif call.y.dtype == torch.float64 and call.x.dtype in (torch.float32, *HALF_DTYPES):
        yield float64_target(call)


def float_indices(call: Call, target: torch.Tensor) -> Iterator[Finding]:
    if target.numel() == 0:
        return
    dtype = str(target.dtype).removeprefix("torch.")
    fix = f"{call.function}(…, target.long())"
    if call.function in ("multi_margin_loss", "nll_loss") or (
        call.function == "cross_entropy" and target.shape != call.x.shape
    ):
        yield FLOAT_INDICES.found(
            call.place,
            "error",
            seen=f"target is {dtype} with shape {tuple(target.shape)}, the shape of class indices.",
            why=f"{call.function} takes class indices as whole numbers of an integer dtype, and raises an error.",
            fix=fix,
        )
    elif call.function == "cross_entropy":
        sample = target[:8]
        if bool((sample == sample.round()).all()) and float(sample.min()) >= 0 and float(sample.max()) > 1:
            yield FLOAT_INDICES.found(
                call.place,
                "error",
                seen=f"target is {dtype}, has the shape of input, {tuple(target.shape)}, and holds whole numbers up to "
                f"{figure(float(sample.max()))}.",
                why="A target of that shape is taken for class probabilities: indices weigh the classes by their "
                "number, and the loss means nothing.",
                fix=f"{fix}, and input of shape (N, C)",
            )


def float64_target(call: Call) -> Finding:
    dtype = str(call.x.dtype).removeprefix("torch.")
    return FLOAT64_TARGET.found(
        call.place,
        "warning",
        seen=f"target is float64, as NumPy makes it, and input {dtype}.",
        why="The loss is computed and returned in float64, at twice the memory; some losses raise in backward.",
        fix=f"{call.function}(input, target.to(input.dtype))",
    )


def after(call: Call, history: History) -> Iterator[Finding]:
    # A loss beyond the largest number is told by check 9.
    if call.result is None or call.result.dtype not in HALF_DTYPES or "non-finite-loss" in history.found:
        return
    dtype = str(call.result.dtype).removeprefix("torch.")
    info = torch.finfo(call.result.dtype)
    yield HALF_LOSS.found(
        call.place,
        "info",
        seen=f"The loss is {dtype}: steps of {figure(100 * info.eps)} %, and at most {figure(info.max)}.",
        why="Changes that are smaller do not show in a curve, and sums of such losses stop growing.",
        fix=f"losskit.functional.{call.function}(…, out_dtype=torch.float32), or input.float()",
    )


CHECK = Check(
    number=11,
    what="dtypes",
    functions=(*WITH_TARGET, "cross_entropy", "linear_cross_entropy", "multi_margin_loss", "nll_loss"),
    kinds=(FLOAT_INDICES, FLOAT64_TARGET, HALF_LOSS),
    before=before,
    after=after,
)
