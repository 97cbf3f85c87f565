"""Losses of a distribution, or of its parameters."""

import math

import torch
from torch import Tensor

from losskit.explanation.reduction import reduction_name
from losskit.explanation.worksheet import Losses, Slope, Worksheet


def kl_div(sheet: Worksheet) -> Losses:
    given = sheet.wide("target")
    x, given = _given(sheet, sheet.wide("input"), given)
    sheet.symbol("x", "log_probability_of_input")
    if sheet["log_target"]:
        sheet.symbol("log y", "log_probability_of_target")
        sheet.step("given", "x, log y", sheet.raw("x", x), sheet.raw("log y", given))
        x, log_y = sheet.kept(x), sheet.kept(given)
        y = log_y.exp()
        sheet.step("exponential", "y = exp(log y)", ("log y", log_y), ("y", y))
    else:
        sheet.symbol("y", "probability_of_target")
        sheet.step("given", "x, y", sheet.raw("x", x), sheet.raw("y", given))
        x, y = sheet.kept(x), sheet.kept(given)
        log_y = y.log()
        sheet.step("logarithm", "log y", ("y", y), ("log y", log_y))
    terms = _times_log(y, log_y), _times_log(y, x)
    values = terms[0] - terms[1]
    sheet.step("kl", "ℓ = y · log y − y · x", ("y · log y", terms[0]), ("y · x", terms[1]), ("ℓ", values))
    _divergence_remarks(sheet, x, y, values)
    return Losses(values, {"input": Slope("x", "−y", -y)})


def poisson_nll_loss(sheet: Worksheet) -> Losses:
    x, y = _given(sheet, sheet.wide("input"), sheet.wide("target"))
    of_logs, eps = bool(sheet["log_input"]), float(sheet["eps"])
    sheet.symbol("x", "log_rate" if of_logs else "rate")
    sheet.symbol("y", "count")
    sheet.step("given", "x, y", sheet.raw("x", x), sheet.raw("y", y))
    x, y = sheet.kept(x), sheet.kept(y)
    if of_logs:
        sheet.formula, sheet.latex = "exp(x) − y · x", r"\exp(x) - y\,x"
        rate, log_rate = x.exp(), x
        sheet.step("exponential", "λ = exp(x)", ("x", x), ("λ", rate))
        slope, text = rate - y, "exp(x) − y"
        formula = "ℓ = λ − y · x"
    else:
        sheet.formula, sheet.latex = "x − y · log(x + eps)", r"x - y \log(x + \mathrm{eps})"
        sheet.symbol("eps", "eps_of_logarithm", eps)
        rate, log_rate = x, (x + eps).log()
        sheet.step("logarithm", "log(x + eps)", ("x", x), ("log(x + eps)", log_rate))
        slope, text = 1 - torch.where(y == 0, 0.0, y / (x + eps)), "1 − y / (x + eps)"
        formula = "ℓ = x − y · log(x + eps)"
    product = _times_log(y, log_rate)
    values = rate - product
    name = "x" if of_logs else "log(x + eps)"
    sheet.step("poisson", formula, ("λ" if of_logs else "x", rate), (f"y · {name}", product), ("ℓ", values))
    if sheet["full"]:
        few = y <= 1
        count = torch.where(few, 1.0, y)
        stirling = count * count.log() - count + 0.5 * (2 * math.pi * count).log()
        stirling = torch.where(few, 0.0, stirling)
        sheet.step(
            "stirling",
            "ℓ ← ℓ + [y > 1] · (y · log y − y + log(2 · π · y)/2)",
            ("ℓ", values),
            ("log y!", stirling),
            ("ℓ′", values + stirling),
        )
        values = values + stirling
    _count_remarks(sheet, x, y, values)
    return Losses(values, {"input": Slope("x", text, slope)})


def gaussian_nll_loss(sheet: Worksheet) -> Losses:
    x, y, eps = sheet.wide("input"), sheet.wide("target"), float(sheet["eps"])
    var = _variance(sheet, x)
    shape = torch.broadcast_shapes(x.shape, y.shape, var.shape)
    sheet.begin(shape, "element")
    x, y, spread = x.expand(shape), y.expand(shape), var.expand(shape)
    for symbol, key in (("x", "mean_of_normal"), ("y", "target"), ("var", "variance")):
        sheet.symbol(symbol, key)
    sheet.symbol("eps", "least_variance", eps)
    sheet.step("given", "x, y, var", sheet.raw("x", x), sheet.raw("y", y), sheet.raw("var", spread))
    x, y, spread = sheet.kept(x), sheet.kept(y), sheet.kept(spread)
    v = torch.where(spread < eps, eps, spread)
    error = x - y
    scaled = error.square() / v
    sheet.step("variance", "v = max(var, eps)", ("var", spread), ("v", v))
    sheet.step("scaled_error", "e = (x − y)² / v", ("x − y", error), ("v", v), ("e", scaled))
    values = 0.5 * (v.log() + scaled)
    sheet.step("gaussian", "ℓ = (log v + e) / 2", ("log v", v.log()), ("e", scaled), ("ℓ", values))
    if sheet["full"]:
        constant = 0.5 * math.log(2 * math.pi)
        sheet.step("gaussian_full", "ℓ ← ℓ + log(2 · π)/2", ("ℓ", values), ("ℓ′", values + constant), constant=constant)
        values = values + constant
    counted = sheet.counting()
    below = counted & (spread < eps)
    if below.any():
        sheet.remark(
            "variance_below", n=int(below.sum()), total=below.numel(), eps=eps, where=sheet.place(sheet.first(below))
        )
    if counted.any() and bool(scaled[counted].isfinite().all()):
        fit = float(scaled[counted].mean())
        key = "surer" if fit > 1 else "less_sure"
        sheet.remark("calibration", fit=fit, verdict=sheet.say(f"calibration.{key}"))
    _negative_remark(sheet, values, "negative_density")
    back = var.shape
    slopes = {"input": Slope("x", "(x − y) / v", error / v)}
    if isinstance(sheet["var"], Tensor):
        given = sheet["var"].shape
        slopes["var"] = Slope(
            "var",
            "(1/v − (x − y)²/v²) / 2",
            0.5 * (1 / v - error.square() / v.square()),
            lambda g: g.sum_to_size(back).reshape(given),
        )
    return Losses(values, slopes)


def _given(sheet: Worksheet, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sheet.begin(torch.broadcast_shapes(x.shape, y.shape), "element")
    return x.expand(sheet.shape), y.expand(sheet.shape)


def _times_log(factor: Tensor, logarithm: Tensor) -> Tensor:
    """The product, where 0·log 0 is 0: what is impossible on both sides costs nothing."""
    return factor * logarithm.masked_fill((factor == 0) & (logarithm == -math.inf), 0)


def _variance(sheet: Worksheet, x: Tensor) -> Tensor:
    """In a shape that broadcasts: one for all, or one for each row without the last dimension."""
    var = sheet["var"]
    if not isinstance(var, Tensor):
        return torch.tensor(var, dtype=torch.float64)
    wide = sheet.wide("var")
    return wide.unsqueeze(-1) if wide.shape != x.shape and wide.shape == x.shape[:-1] else wide


def _negative_remark(sheet: Worksheet, values: Tensor, key: str) -> None:
    negative = sheet.counting() & (values < 0)
    if negative.any():
        sheet.remark(key, n=int(negative.sum()), total=values.numel(), least=float(values[negative].min()))


def _divergence_remarks(sheet: Worksheet, x: Tensor, y: Tensor, values: Tensor) -> None:
    counted = sheet.counting()
    bad = counted & (y < 0)
    if bad.any():
        sheet.remark("negative_target", n=int(bad.sum()), total=y.numel(), where=sheet.place(sheet.first(bad)))
        return
    _negative_remark(sheet, values, "negative_kl")
    # The rows of distributions, where nothing of one is left out.
    if y.ndim < 2 or y.shape[-1] < 2 or not y.numel() or not bool(counted.all()):
        return
    for name, sums in (("input", x.exp().sum(-1)), ("target", y.sum(-1))):
        if bool(((sums - 1).abs() > 1e-3).any()):
            sheet.remark("rows_of_kl", name=name, sum=float(sums.flatten()[(sums.flatten() - 1).abs().argmax()]))
    if reduction_name(sheet) == "mean" and not sheet.has("normalizer"):
        sheet.remark("kl_mean", n=y.numel(), samples=y.shape[0], batchmean=float(values.sum()) / y.shape[0])


def _count_remarks(sheet: Worksheet, x: Tensor, y: Tensor, values: Tensor) -> None:
    counted = sheet.counting()
    wrong = counted & ((y < 0) | (y != y.round()))
    if wrong.any():
        index = sheet.first(wrong)
        sheet.remark("no_counts", n=int(wrong.sum()), total=y.numel(), value=float(y[index]), where=sheet.place(index))
    elif counted.any() and not sheet["full"] and bool(values[counted].isfinite().all()):
        floor = float((y - torch.xlogy(y, y))[counted].mean())
        sheet.remark("poisson_floor", floor=floor, mean=float(values[counted].mean()))
    if not sheet["log_input"]:
        low = counted & (x + float(sheet["eps"]) <= 0)
        if low.any():
            sheet.remark("no_rate", n=int(low.sum()), total=x.numel(), where=sheet.place(sheet.first(low)))
    _negative_remark(sheet, values, "negative_poisson")


LESSONS = {
    "gaussian_nll_loss": gaussian_nll_loss,
    "kl_div": kl_div,
    "poisson_nll_loss": poisson_nll_loss,
}
