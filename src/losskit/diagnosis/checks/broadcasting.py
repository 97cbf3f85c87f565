"""Check 5: shapes that differ and are broadcast."""

from collections.abc import Iterator

import torch
from torch import Tensor

from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.finding import Finding, Kind, figure
from losskit.diagnosis.history import History

__all__ = ["CHECK"]

BROADCAST = Kind("broadcast", 5, "input and target of different shapes, compared all with all")

# What the best constant prediction costs, where it is a figure of the target alone.
SQUARED = ("mse_loss",)


def before(call: Call, history: History) -> Iterator[Finding]:
    if call.y is None:
        return
    shapes = {"input": call.x.shape, "target": call.y.shape}
    if call.function == "margin_ranking_loss":
        other = call.arguments["input2"]
        shapes = {"input1": call.x.shape, "input2": other.shape, "target": call.y.shape}
    if len(set(shapes.values())) == 1:
        return
    try:
        together = torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        # The call itself tells.
        return
    count = together.numel()
    most = max(shape.numel() for shape in shapes.values())
    listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    outer = count > most
    yield BROADCAST.found(
        call.place,
        "error" if outer else "warning",
        seen=f"{listed} are broadcast to {tuple(together)}: {count} losses "
        + (f"where there are {most} predictions." if outer else "of which some share a value."),
        why=consequence(call, call.y)
        if outer
        else "If that is not meant, values are compared that do not belong together.",
        fix=fix(call, shapes),
    )


def consequence(call: Call, target: Tensor) -> str:
    text = "Every prediction is compared with every target, so the best that can be learned is one constant for all"
    if call.function in SQUARED and target.is_floating_point():
        return f"{text}: training stops at Var(target) = {figure(float(target.double().var(unbiased=False)))}."
    return f"{text}."


def fix(call: Call, shapes: dict[str, torch.Size]) -> str:
    names = list(shapes)
    for change, fits in (("squeeze(-1)", is_column_of), ("unsqueeze(-1)", is_row_of)):
        for name in names:
            if all(fits(shapes[name], shapes[other]) for other in names if other != name):
                arguments = [f"{each}.{change}" if each == name else each for each in names]
                return f"{call.function}({', '.join(arguments)})"
    if call.function == "margin_ranking_loss":
        return "margin_ranking_loss(…), with three tensors of one shape"
    return f"{call.function}(input, target.expand_as(input)), if that is meant"


def is_column_of(shape: torch.Size, other: torch.Size) -> bool:
    """(N, 1) of (N)."""
    return shape == torch.Size([*other, 1])


def is_row_of(shape: torch.Size, other: torch.Size) -> bool:
    return is_column_of(other, shape)


CHECK = Check(
    number=5,
    what="shapes that differ and are broadcast",
    functions=(
        "gaussian_nll_loss",
        "hinge_embedding_loss",
        "huber_loss",
        "kl_div",
        "l1_loss",
        "margin_ranking_loss",
        "mse_loss",
        "poisson_nll_loss",
        "smooth_l1_loss",
        "soft_margin_loss",
    ),
    kinds=(BROADCAST,),
    before=before,
)
