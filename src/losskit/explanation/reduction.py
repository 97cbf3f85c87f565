"""From the losses of a call to its result: what every loss shares."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from losskit.explanation.worksheet import OF_ALL, Losses, Worksheet

_ONE = torch.ones((), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Reduced:
    """The result by the steps, and what each loss has in it."""

    value: Tensor
    # The losses with their weights, 0 where they do not count.
    contributions: Tensor
    # The derivative of the result by each loss.
    share: Tensor
    # What such a derivative has behind it: " · s / D".
    share_formula: str
    # What a mean divides by.
    mean_divisor: float


def reduction_name(sheet: Worksheet) -> str:
    """The reduction of the call, after its legacy flags."""
    if not (sheet.has("size_average") or sheet.has("reduce")):
        name: str = sheet["reduction"]
        return name
    if sheet.has("reduce") and not sheet["reduce"]:
        return "none"
    return "sum" if sheet.has("size_average") and not sheet["size_average"] else "mean"


def reduce(sheet: Worksheet, losses: Losses) -> Reduced:
    """Write the steps from the losses to the result."""
    name = reduction_name(sheet)
    if sheet.has("size_average") or sheet.has("reduce"):
        sheet.remark("legacy", reduction=name)
    sheet.symbol("ℓ, L", "loss_and_result")
    values, factor, counts, symbols = losses.values, torch.ones(sheet.shape, dtype=torch.float64), losses.counts, []
    if losses.counts_symbol:
        symbols.append(losses.counts_symbol)
    counts = torch.ones(values.shape, dtype=torch.float64) if counts is None else counts
    formula = ""
    if sheet.has("sample_weight"):
        weight = sheet.wide("sample_weight").expand(sheet.shape)
        weighted = sheet.kept(values * weight)
        sheet.symbol("s", "sample_weight")
        sheet.step("sample_weight", "ℓ ← s · ℓ", ("ℓ", values), ("s", weight), ("s · ℓ", weighted))
        values, counts, factor, formula = weighted, counts * weight, factor * weight, " · s"
        symbols.insert(0, "s")
    if sheet.mask is not None:
        values = sheet.kept(values)
        sheet.symbol("m", "mask")
        sheet.step("mask", "ℓ ← m · ℓ", sheet.raw("m", sheet.mask), sheet.raw("ℓ", values))
        sheet.remark("masked", n=int((~sheet.mask).sum()), total=values.numel())
        symbols = symbols or ["m"]
    counts = sheet.kept(counts)
    factor = sheet.kept(factor)
    if name == "none":
        sheet.step("none", "L = ℓ", ("L", values))
        sheet.remark("none")
        return Reduced(values, values, factor, formula, float(counts.sum()))
    total, number = values.sum(), counts.sum()
    if name == "sum" and not sheet.has("normalizer"):
        sheet.step("sum", "L = Σ ℓ", ("L", total), row_name=OF_ALL)
        return Reduced(total, values, factor, formula, float(counts.sum()))
    divisor, by = number, f"Σ {' · '.join(symbols)}" if symbols else "N"
    if name == "batchmean":
        divisor, by = _samples(sheet, number, values), "B"
        sheet.symbol("B", "batch")
    elif not symbols and not sheet.has("normalizer"):
        sheet.symbol("N", "number")
    key = name
    if sheet.has("normalizer"):
        sheet.remark("normalizer", normalizer=float(sheet["normalizer"]), divisor=float(divisor))
        divisor, by, key = _ONE * float(sheet["normalizer"]), "normalizer", "normalizer"
    if float(number) == 0 and sheet["on_empty"] == "zero":
        divisor = _ONE
        sheet.remark("empty_zero")
    value = total / divisor
    sheet.step(
        key,
        f"L = Σ ℓ / D, D = {by}",
        ("Σ ℓ", total),
        ("D", divisor if float(divisor) != int_of(divisor) else torch.tensor(int_of(divisor))),
        ("L", value),
        row_name=OF_ALL,
    )
    return Reduced(value, values, factor / divisor, f"{formula} / D", float(number))


def int_of(value: Tensor) -> int:
    """A whole number is shown as one."""
    number = float(value)
    return round(number) if math.isfinite(number) else 0


def _samples(sheet: Worksheet, number: Tensor, values: Tensor) -> Tensor:
    """As many samples as there would be without weights and a mask, times the share of what counts."""
    input = sheet["input"]
    samples = input.shape[0] if input.ndim else 1
    return number * samples / values.numel() if values.numel() else _ONE * samples
