"""Losses of the distance between vectors."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from losskit.explanation.worksheet import Losses, Slope, Worksheet

_NAMES = ("anchor", "positive", "negative")
# What PyTorch adds to the squares of the lengths, so that vectors of zeros have a cosine.
_EPS = 1e-12


def cosine_embedding_loss(sheet: Worksheet) -> Losses:
    margin = float(sheet["margin"])
    one, two, y = sheet.wide("input1"), sheet.wide("input2"), sheet.wide("target")
    shape = torch.broadcast_shapes(torch.broadcast_shapes(one.shape, two.shape)[:-1], y.shape)
    sheet.begin(shape, "sample")
    size = torch.broadcast_shapes(one.shape, two.shape)[-1]
    one, two, y = one.expand([*shape, size]), two.expand([*shape, size]), y.expand(shape)
    for symbol, key in (("x₁", "first_vector"), ("x₂", "second_vector"), ("y", "sign")):
        sheet.symbol(symbol, key)
    sheet.symbol("margin", "margin", margin)
    sheet.step("vectors", "x₁, x₂", sheet.raw("x₁", one, "feature"), sheet.raw("x₂", two, "feature"))
    one, two, y = sheet.kept(one), sheet.kept(two), sheet.kept(y)
    product = (one * two).sum(-1)
    squares = one.square().sum(-1) + _EPS, two.square().sum(-1) + _EPS
    cosine = product / (squares[0].sqrt() * squares[1].sqrt())
    sheet.step(
        "cosine",
        "cos = x₁·x₂ / (‖x₁‖ · ‖x₂‖)",
        ("x₁·x₂", product),
        ("‖x₁‖", squares[0].sqrt()),
        ("‖x₂‖", squares[1].sqrt()),
        ("cos", cosine),
    )
    alike, unlike = y == 1, y == -1
    values = torch.where(alike, 1 - cosine, 0.0) + torch.where(unlike, (cosine - margin).clamp(min=0), 0.0)
    sheet.step(
        "cosine_loss",
        "ℓ = [y = 1] · (1 − cos) + [y = −1] · max(0, cos − margin)",
        ("y", y),
        ("cos", cosine),
        ("ℓ", values),
    )
    # The derivative of max(0, z) at 0 is 1 here.
    outer = (unlike & (cosine >= margin)).double() - alike.double()
    length = (squares[0].sqrt() * squares[1].sqrt()).unsqueeze(-1)
    slopes = {}
    for name, own, other, square in (("1", one, two, squares[0]), ("2", two, one, squares[1])):
        mine, theirs = ("₁", "₂") if name == "1" else ("₂", "₁")
        slope = outer.unsqueeze(-1) * (other / length - (cosine / square).unsqueeze(-1) * own)
        slopes[f"input{name}"] = Slope(
            f"x{mine}",
            f"([y = −1] · [cos ≥ margin] − [y = 1]) · (x{theirs} / (‖x₁‖ · ‖x₂‖) − cos · x{mine} / ‖x{mine}‖²)",
            slope,
            axis="feature",
        )
    counted = sheet.counting()
    other = counted & ~alike & ~unlike
    if other.any():
        index = sheet.first(other)
        sheet.remark(
            "signs_cosine", n=int(other.sum()), total=y.numel(), value=float(y[index]), where=sheet.place(index)
        )
    zero = counted & ((squares[0] == _EPS) | (squares[1] == _EPS))
    if zero.any():
        sheet.remark("zero_vector", n=int(zero.sum()), total=zero.numel(), where=sheet.place(sheet.first(zero)))
    inactive = counted & unlike & (cosine < margin)
    if inactive.any():
        sheet.remark("inactive", n=int(inactive.sum()), total=y.numel())
    return Losses(values, slopes)


def triplet_margin_loss(sheet: Worksheet) -> Losses:
    p, eps = float(sheet["p"]), float(sheet["eps"])
    vectors = [_inexact(sheet.wide(name)) for name in _NAMES]
    pairs = [(0, 1), (0, 2), *([(1, 2)] if sheet["swap"] else [])]
    rows = [torch.broadcast_shapes(vectors[i].shape, vectors[k].shape)[:-1] for i, k in pairs]
    sheet.begin(torch.broadcast_shapes(*rows), "sample")
    _triplet_symbols(sheet, vectors)
    return _of_distances(sheet, [_kept_rows(sheet, vector) for vector in vectors], _Norm(p, eps))


def triplet_margin_with_distance_loss(sheet: Worksheet) -> Losses:
    if sheet["distance_function"] is None:
        vectors = [_inexact(sheet.wide(name)) for name in _NAMES]
        distance: _Norm | _Own = _Norm(2.0, 1e-6)
    else:
        # A distance of any kind may take its own dtype and device alone, so it gets the tensors as they are.
        vectors = [sheet[name].detach() for name in _NAMES]
        distance = _Own(sheet["distance_function"])
    sheet.begin(distance(vectors[0], vectors[1]).shape, "sample")
    _triplet_symbols(sheet, vectors)
    if all(vector.shape[: len(sheet.shape)] == sheet.shape for vector in vectors):
        vectors = [_kept_rows(sheet, vector) for vector in vectors]
    return _of_distances(sheet, vectors, distance)


class _Norm:
    """‖u − v + eps‖_p along the last axis."""

    name = "d(u, v) = ‖u − v + eps‖"

    def __init__(self, p: float, eps: float) -> None:
        self.p, self.eps = p, eps

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(u - v + self.eps, self.p, -1)
        return norm

    def slopes(self, u: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of Σ g·d by u and by v. At a distance of 0 they are 0."""
        difference = u - v + self.eps
        size, length = difference.abs(), self(u, v).unsqueeze(-1)
        if self.p == 0:
            unit = torch.zeros_like(difference)
        elif math.isinf(self.p):
            # Those that are the largest, or the smallest, share.
            extreme = size == length
            unit = torch.sgn(difference) * extreme / extreme.sum(-1, keepdim=True)
        else:
            unit = torch.sgn(difference) * (size / length) ** (self.p - 1)
        unit = torch.where((length == 0) | (difference == 0), 0.0, unit) * g.unsqueeze(-1)
        return unit.sum_to_size(u.shape), -unit.sum_to_size(v.shape)


class _Own:
    """A distance that the call brings along: its values as they are, its derivatives by autograd."""

    name = "d(u, v)"

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, u: Tensor, v: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.function(u, v).cpu().double()
            return found

    def slopes(self, u: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaves = u.clone().requires_grad_(True), v.clone().requires_grad_(True)
            total = (self.function(*leaves).cpu().double() * g).sum()
            first, second = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
            return first.cpu().double(), second.cpu().double()


def _of_distances(sheet: Worksheet, vectors: list[Tensor], distance: _Norm | _Own) -> Losses:
    anchor, positive, negative = vectors
    margin, swap = float(sheet["margin"]), bool(sheet["swap"])
    if isinstance(distance, _Norm):
        order = int(distance.p) if distance.p.is_integer() else distance.p
        sheet.symbol("‖u‖", "norm", order=order)
        sheet.symbol("eps", "eps_of_difference", distance.eps)
    sheet.symbol("margin", "margin", margin)
    near, far = distance(anchor, positive), distance(anchor, negative)
    columns = [("d(a, p)", near), ("d(a, n)", far)]
    sheet.step("distances", distance.name, *columns)
    # How much of the distance to the negative is that of the anchor, and of the positive.
    of_anchor = torch.ones_like(far)
    farther, name = far, "d(a, n)"
    if swap:
        other = distance(positive, negative)
        farther, name = torch.minimum(far, other), "d⁻"
        of_anchor = (far < other).double() + 0.5 * (far == other).double()
        sheet.step("swap", "d⁻ = min(d(a, n), d(p, n))", ("d(a, n)", far), ("d(p, n)", other), ("d⁻", farther))
        taken = sheet.counting() & (other < far)
        if taken.any():
            sheet.remark("swapped", n=int(taken.sum()), total=taken.numel())
    before = margin + near - farther
    values = before.clamp(min=0)
    sheet.step(
        "triplet",
        f"ℓ = max(0, a), a = margin + d(a, p) − {name}",
        ("d(a, p)", near),
        (name, farther),
        ("a", before),
        ("ℓ", values),
    )
    active = (before >= 0).double()
    counted = sheet.counting()
    inactive = counted & (before < 0)
    if inactive.any():
        sheet.remark("inactive", n=int(inactive.sum()), total=inactive.numel())
    if counted.any() and bool((near[counted] < 1e-3 * margin).all()) and bool((farther[counted] < 1e-3 * margin).all()):
        sheet.remark("collapsed", margin=margin)

    def slopes(g: Tensor) -> list[Tensor]:
        by_anchor, by_positive = distance.slopes(anchor, positive, g)
        back, by_negative = distance.slopes(anchor, negative, -g * of_anchor)
        by_anchor = by_anchor + back
        if swap:
            more, again = distance.slopes(positive, negative, -g * (1 - of_anchor))
            by_positive, by_negative = by_positive + more, by_negative + again
        return [by_anchor, by_positive, by_negative]

    minus = "d⁻" if swap else "d(a, n)"
    formulas = [
        f"[a ≥ 0] · (∂d(a, p)/∂a − ∂{minus}/∂a)",
        f"[a ≥ 0] · (∂d(a, p)/∂p − ∂{minus}/∂p)" if swap else "[a ≥ 0] · ∂d(a, p)/∂p",
        f"−[a ≥ 0] · ∂{minus}/∂n",
    ]
    return Losses(
        values,
        {
            name: Slope(symbol, formula, active, partial(_taken, slopes, place), axis="feature")
            for place, (name, symbol, formula) in enumerate(zip(_NAMES, "apn", formulas, strict=True))
        },
    )


def _taken(slopes: Callable[[Tensor], list[Tensor]], place: int, g: Tensor) -> Tensor:
    return slopes(g)[place]


def _inexact(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_complex() else tensor.double()


def _kept_rows(sheet: Worksheet, vector: Tensor) -> Tensor:
    """Zeros for the vectors of what does not count."""
    if sheet.counted is None:
        return vector
    counted = sheet.counted.to(vector.device).reshape([*sheet.shape, *[1] * (vector.ndim - len(sheet.shape))])
    return torch.where(counted, vector, vector.new_zeros(()))


def _triplet_symbols(sheet: Worksheet, vectors: list[Tensor]) -> None:
    for symbol, key in (("a", "anchor"), ("p", "positive"), ("n", "negative")):
        sheet.symbol(symbol, key)
    rows = [vector.cpu() for vector in vectors]
    if all(vector.ndim == len(sheet.shape) + 1 and vector.shape[:-1] == sheet.shape for vector in rows):
        columns = [sheet.raw(symbol, vector, "feature") for symbol, vector in zip("apn", rows, strict=True)]
        sheet.step("triplets", "a, p, n", *columns)


LESSONS = {
    "cosine_embedding_loss": cosine_embedding_loss,
    "triplet_margin_loss": triplet_margin_loss,
    "triplet_margin_with_distance_loss": triplet_margin_with_distance_loss,
}
