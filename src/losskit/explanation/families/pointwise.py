"""Losses of one number against another."""

import math

import torch
from torch import Tensor

from losskit.explanation.worksheet import Losses, Slope, Worksheet, bracketed, times


def l1_loss(sheet: Worksheet) -> Losses:
    d = _difference(sheet)
    sheet.step("absolute", "ℓ = |d|", ("d", d), ("ℓ", d.abs()))
    touching = int(((d == 0) & sheet.counting()).sum())
    if touching:
        sheet.remark("kink", n=touching, total=d.numel())
    _against_a_constant(sheet, "median")
    return _weighted(sheet, d.abs(), torch.sgn(d), "sign(d)", divides=True)


def mse_loss(sheet: Worksheet) -> Losses:
    d = _difference(sheet)
    sheet.step("square", "ℓ = d²", ("d", d), ("ℓ", d.square()))
    _against_a_constant(sheet, "mean")
    return _weighted(sheet, d.square(), 2 * d, "2 · d", divides=True)


def smooth_l1_loss(sheet: Worksheet) -> Losses:
    beta = float(sheet["beta"])
    d = _difference(sheet)
    sheet.symbol("β", "corner", beta)
    if beta == 0:
        sheet.step("absolute", "ℓ = |d|", ("d", d), ("ℓ", d.abs()))
        return _weighted(sheet, d.abs(), torch.sgn(d), "sign(d)")
    near = d.abs() < beta
    values = torch.where(near, d.square() / (2 * beta), d.abs() - beta / 2)
    sheet.step(
        "smooth_l1",
        "ℓ = [|d| < β] · d²/(2 · β) + [|d| ≥ β] · (|d| − β/2)",
        ("|d|", d.abs()),
        ("|d| < β", near),
        ("ℓ", values),
    )
    _linear_part(sheet, ~near & ~d.isnan(), "β", beta, 1.0)
    return _weighted(sheet, values, (d / beta).clamp(-1, 1), "clamp(d/β, −1, 1)")


def huber_loss(sheet: Worksheet) -> Losses:
    delta = float(sheet["delta"])
    d = _difference(sheet)
    sheet.symbol("δ", "corner", delta)
    near = d.abs() <= delta
    values = torch.where(near, d.square() / 2, d.square() / 2 if delta == math.inf else delta * (d.abs() - delta / 2))
    sheet.step(
        "huber",
        "ℓ = [|d| ≤ δ] · d²/2 + [|d| > δ] · δ · (|d| − δ/2)",
        ("|d|", d.abs()),
        ("|d| ≤ δ", near),
        ("ℓ", values),
    )
    _linear_part(sheet, ~near & ~d.isnan(), "δ", delta, delta)
    return _weighted(sheet, values, d.clamp(-delta, delta), "clamp(d, −δ, δ)")


def binary_cross_entropy(sheet: Worksheet) -> Losses:
    p, y = _pair(sheet, "p", "y", "probability", "yes")
    yes, no = p.log().clamp(min=-100), torch.log1p(-p).clamp(min=-100)
    sheet.step(
        "two_logs",
        "a = max(log p, −100), b = max(log(1 − p), −100)",
        ("p", p),
        ("a", yes),
        ("b", no),
    )
    values = -y * yes - (1 - y) * no
    sheet.step(
        "binary_sum",
        "ℓ = −y · a − (1 − y) · b",
        ("−y · a", -y * yes),
        ("−(1 − y) · b", -(1 - y) * no),
        ("ℓ", values),
    )
    counted = sheet.counting()
    clamped = counted & (((yes == -100) & (y > 0)) | ((no == -100) & (y < 1)))
    if clamped.any():
        sheet.remark("clamped", n=int(clamped.sum()), total=p.numel(), where=sheet.place(sheet.first(clamped)))
    _binary_remarks(sheet, torch.where(y == 1, p, 1 - p), y, values)
    slope = (p - y) / (p * (1 - p)).clamp(min=1e-12)
    return _weighted(sheet, values, slope, "(p − y) / max(p · (1 − p), 1e-12)", symbol="p")


def binary_cross_entropy_with_logits(sheet: Worksheet) -> Losses:
    x, y = _pair(sheet, "x", "y", "logit", "yes")
    yes, no = _softplus(-x), _softplus(x)
    p = torch.sigmoid(x)
    sheet.step("sigmoid", "p = σ(x) = 1 / (1 + exp(−x))", ("x", x), ("p", p))
    sheet.step("softplus", "−log p = softplus(−x), −log(1 − p) = softplus(x)", ("−log p", yes), ("−log(1 − p)", no))
    positive, name, formula, slope = y, "y", "p − y", "σ(x) − y"
    if sheet.has("pos_weight"):
        weight = sheet.wide("pos_weight").expand(sheet.shape)
        sheet.symbol("w₊", "pos_weight")
        positive, name = weight * y, "w₊ · y"
        sheet.step("pos_weight", "y₊ = w₊ · y", ("w₊", weight), ("y", y), ("w₊ · y", positive))
        slope = "(1 − y) · σ(x) − w₊ · y · σ(−x)"
    else:
        slope = formula
    terms = times(positive, yes), times(1 - y, no)
    values = terms[0] + terms[1]
    sheet.step(
        "binary_sum",
        f"ℓ = {name} · (−log p) + (1 − y) · (−log(1 − p))",
        (f"{name} · (−log p)", terms[0]),
        ("(1 − y) · (−log(1 − p))", terms[1]),
        ("ℓ", values),
    )
    counted = sheet.counting()
    outside = counted & ((y < 0) | (y > 1))
    if outside.any():
        least, largest = y[counted].aminmax()
        sheet.remark(
            "target_outside", n=int(outside.sum()), total=y.numel(), least=float(least), largest=float(largest)
        )
    given = x[counted]
    if given.numel() >= 4 and bool(((given >= 0) & (given <= 1)).all()):
        sheet.remark("sigmoid_twice", yes=math.log1p(math.exp(-1)), no=math.log(2))
    _binary_remarks(sheet, torch.sigmoid(torch.where(y == 1, x, -x)), y, values)
    return _weighted(sheet, values, (1 - y) * p - positive * torch.sigmoid(-x), slope)


def binary_terms(x: Tensor, y: Tensor) -> Tensor:
    """Binary cross entropy of logits, by terms that cannot cancel."""
    return times(y, _softplus(-x)) + times(1 - y, _softplus(x))


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)): its larger part is max(x, 0), which cannot overflow."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def _difference(sheet: Worksheet) -> Tensor:
    x, y = sheet.wide("input"), sheet.wide("target")
    x, y = _broadcast(sheet, x, y)
    sheet.symbol("x", "input")
    sheet.symbol("y", "target")
    sheet.symbol("d", "difference")
    d = sheet.kept(x) - sheet.kept(y)
    sheet.step("difference", "d = x − y", sheet.raw("x", x), sheet.raw("y", y), ("d", d))
    return d


def _pair(sheet: Worksheet, first: str, second: str, first_key: str, second_key: str) -> tuple[Tensor, Tensor]:
    """Input and target where nothing is done to them first; a table shows them as they came."""
    x, y = _broadcast(sheet, sheet.wide("input"), sheet.wide("target"))
    sheet.symbol(first, first_key)
    sheet.symbol(second, second_key)
    sheet.step("given", f"{first}, {second}", sheet.raw(first, x), sheet.raw(second, y))
    return sheet.kept(x), sheet.kept(y)


def _broadcast(sheet: Worksheet, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sheet.begin(torch.broadcast_shapes(x.shape, y.shape), "element")
    if x.shape != y.shape:
        sheet.remark(
            "broadcast",
            input=str(tuple(x.shape)),
            target=str(tuple(y.shape)),
            n=sheet.shape.numel(),
            inputs=x.numel(),
        )
    return x.expand(sheet.shape), y.expand(sheet.shape)


def _weighted(
    sheet: Worksheet, values: Tensor, slope: Tensor, formula: str, *, symbol: str = "x", divides: bool = False
) -> Losses:
    weight = None
    if sheet.has("weight"):
        weight = sheet.wide("weight").expand(sheet.shape)
        sheet.symbol("w", "weight")
        sheet.step("weight", "ℓ ← w · ℓ", ("ℓ", values), ("w", weight), ("w · ℓ", values * weight))
        values, slope, formula = values * weight, slope * weight, f"w · {bracketed(formula)}"
    return Losses(
        values,
        {"input": Slope(symbol, formula, slope)},
        counts=weight if divides else None,
        counts_symbol="w" if divides and weight is not None else "",
        weight=None if divides else weight,
    )


def _linear_part(sheet: Worksheet, far: Tensor, symbol: str, corner: float, slope: float) -> None:
    far = far & sheet.counting()
    if far.any():
        sheet.remark("linear_part", n=int(far.sum()), total=far.numel(), symbol=symbol, corner=corner, slope=slope)


def _against_a_constant(sheet: Worksheet, which: str) -> None:
    """What the best constant would cost: the mean for squares, the median for distances."""
    x, y = (sheet.wide(name).expand(sheet.shape)[sheet.counting()] for name in ("input", "target"))
    if sheet.has("weight") or sheet.has("sample_weight") or y.numel() < 2 or y.is_complex() or x.is_complex():
        return
    best = y.mean() if which == "mean" else y.median()
    errors = [(prediction - y).square() if which == "mean" else (prediction - y).abs() for prediction in (x, best)]
    here, constant = (float(error.mean()) for error in errors)
    if constant > 0 and math.isfinite(here) and math.isfinite(constant):
        sheet.remark(
            f"constant_{which}",
            constant=float(best),
            loss=constant,
            here=here,
            ratio=sheet.say.percent(here / constant),
        )


def _binary_remarks(sheet: Worksheet, right: Tensor, y: Tensor, values: Tensor) -> None:
    """`right` is the probability of the right answer where the target is 0 or 1."""
    counted = sheet.counting()
    hard = counted & ((y == 0) | (y == 1))
    lost = hard & (right < 1e-6)
    if lost.any():
        index = sheet.first(lost)
        sheet.remark(
            "saturated_binary", n=int(lost.sum()), total=y.numel(), where=sheet.place(index), p=float(right[index])
        )
    # With these the mean is no longer that of −log p.
    plain = not (sheet.has("weight") or sheet.request.arguments.get("pos_weight") is not None)
    if bool(hard.any()) and bool((hard == counted).all()) and plain and bool(values[counted].isfinite().all()):
        mean = float(values[counted].mean())
        sheet.remark(
            "binary_mean", mean=mean, p=math.exp(-mean), half=math.log(2), compared=sheet.compared(mean, math.log(2))
        )


LESSONS = {
    "binary_cross_entropy": binary_cross_entropy,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "huber_loss": huber_loss,
    "l1_loss": l1_loss,
    "mse_loss": mse_loss,
    "smooth_l1_loss": smooth_l1_loss,
}
