"""`losskit.explain`."""

import math
from typing import Any

import torch
from torch import Tensor

from losskit.errors import LosskitTypeError, LosskitValueError
from losskit.explanation.arguments import DATA, request
from losskit.explanation.call import Outcome, run
from losskit.explanation.explanation import Explanation, Gradient, Step
from losskit.explanation.families import LESSONS
from losskit.explanation.language import Messages, default_language
from losskit.explanation.reduction import Reduced, reduce, reduction_name
from losskit.explanation.shown import Chosen, choose
from losskit.explanation.table import Column
from losskit.explanation.worksheet import Losses, Slope, Worksheet, bracketed


def explain(
    criterion: Any,
    *args: Any,
    lang: str | None = None,
    digits: int = 4,
    rows: int = 12,
    columns: int = 8,
    **options: Any,
) -> Explanation:
    """Explain a loss on these tensors: its formula, every number on the way to its result, its gradient, and remarks.

    **Args**: `criterion`: a loss module of losskit or `torch.nn`, a function of `losskit.functional` or
    `torch.nn.functional`, or the name of a function or class. The other arguments are those of the function, by
    position or by name; lists of numbers are taken for tensors too. Options that a module holds can be given again, and
    then win. `lang`: `"en"` or `"zh"`; by default that of the locale. `digits`: decimals that are shown. `rows`:
    how many samples are shown at most; of more the first, the worst and the best. `columns`: how many classes are
    shown; of more those of the targets, and those with the largest scores.

    **Returns**: an `Explanation`: print it, or let a notebook or rich show it. The call is run as it is, on copies of
    the tensors; the steps are computed beside it, one by one in float64.

    **Raises**: what the call raises; ValueError for a loss that is not known, TypeError for arguments that it does not
    take.

    **Example**:

    >>> import losskit
    >>> explanation = losskit.explain("cross_entropy", [[0.1, 0.2, 0.3]], [1], lang="en")
    >>> explanation.result
    tensor(1.1019)
    >>> explanation.step("softmax").value
    tensor([[0.3006, 0.3322, 0.3672]], dtype=torch.float64)
    >>> explanation.gradients["input"].values
    tensor([[ 0.3006, -0.6678,  0.3672]])
    """
    # Three rows: the first, the worst and the best.
    for name, count, least, most in (
        ("digits", digits, 1, 15),
        ("rows", rows, 3, 10**6),
        ("columns", columns, 1, 10**6),
    ):
        if isinstance(count, bool) or not isinstance(count, int):
            raise LosskitTypeError(f"explain: {name} must be an int, got {type(count).__name__}.")
        if not least <= count <= most:
            raise LosskitValueError(f"explain: {name} must lie in [{least}, {most}], got {count}.")
    say = Messages(default_language() if lang is None else lang, digits)
    call = request(criterion, args, options)
    # An explanation is asked for in inference_mode as well, whose tensors have no gradients.
    with torch.inference_mode(False), torch.no_grad():
        # First, so that a wrong call gets the error of the loss.
        outcome = run(call)
        # Whatever torch.set_default_device says: float64 is not for every device.
        with torch.device("cpu"):
            return _explained(Worksheet(call, say), outcome, rows, columns)


def _explained(sheet: Worksheet, outcome: Outcome, rows: int, columns: int) -> Explanation:
    call, say = sheet.request, sheet.say
    losses = LESSONS[call.loss.name](sheet)
    reduced = reduce(sheet, losses)
    _remarks(sheet, losses, reduced, outcome.result)
    chosen = choose(sheet, reduced.contributions, rows, columns)
    return Explanation(
        loss=call.loss,
        data={name: value for name, value in call.arguments.items() if name in DATA and value is not None},
        options=call.options,
        formula=say.formula(sheet.formula),
        latex=say.formula(sheet.latex),
        symbols=tuple(sheet.symbols),
        steps=tuple(
            Step(draft.key, draft.title, draft.about, draft.formula, chosen.table(draft.columns, sheet, draft.row_name))
            for draft in sheet.drafts
        ),
        result=outcome.result,
        gradients={
            name: _gradient(sheet, name, slope, reduced, outcome, chosen)
            for name, slope in losses.slopes.items()
            if name in outcome.gradients
        },
        remarks=tuple(sheet.remarks),
        notes=chosen.notes,
        lang=say.lang,
        digits=say.digits,
    )


def _gradient(
    sheet: Worksheet, name: str, slope: Slope, reduced: Reduced, outcome: Outcome, chosen: Chosen
) -> Gradient:
    values = outcome.gradients[name].cpu()
    behind = [1] * (slope.values.ndim - len(sheet.shape))
    share, counted = (tensor.reshape([*sheet.shape, *behind]) for tensor in (reduced.share, sheet.counting()))
    product = share * slope.values
    product = torch.where(counted, product, product.new_zeros(()))
    by_formula = slope.to_tensor(product).sum_to_size(values.shape)
    column = Column("g", slope.to_rows(values), slope.axis)
    front = "∂ΣL" if reduction_name(sheet) == "none" else "∂L"
    factored = f"{bracketed(slope.formula)}{reduced.share_formula}" if reduced.share_formula else slope.formula
    return Gradient(
        name,
        f"g = {front}/∂{slope.symbol} = {factored}",
        values,
        by_formula,
        chosen.table([column], sheet, slope.row_name),
    )


def _remarks(sheet: Worksheet, losses: Losses, reduced: Reduced, result: Tensor) -> None:
    """What matters for any loss."""
    values, counted = reduced.contributions, sheet.counting()
    name = reduction_name(sheet)
    inside = values[counted]
    if not inside.numel():
        _nothing_counts(sheet, name)
        return
    for key, where in (("nan", values.isnan()), ("infinite", values.isinf())):
        found = where & counted
        if found.any():
            sheet.remark(key, n=int(found.sum()), total=values.numel(), where=sheet.place(sheet.first(found)))
    total, largest = float(inside.sum()), float(inside.max())
    if inside.numel() > 2 and bool((inside >= 0).all()) and math.isfinite(total) and largest > total / 2:
        index = sheet.first((values == largest) & counted)
        sheet.remark(
            "dominated",
            where=sheet.place(index),
            share=sheet.say.percent(largest / total),
            even=sheet.say.percent(1 / inside.numel()),
        )
    if losses.weight is not None and name == "mean" and not sheet.has("normalizer"):
        weights = losses.weight[counted]
        sheet.remark("weight_not_divided", n=weights.numel(), sum=float(weights.sum()))
    if name == "sum" and inside.numel() > 1 and reduced.mean_divisor > 0 and not sheet.has("normalizer"):
        sheet.remark("sum", n=reduced.mean_divisor, mean=total / reduced.mean_divisor)
    _rounding(sheet, reduced.value, result.cpu().double())


def _nothing_counts(sheet: Worksheet, name: str) -> None:
    if name == "mean" and not sheet.has("normalizer") and sheet["on_empty"] == "nan":
        sheet.remark("empty_nan")
    elif name != "none":
        sheet.remark("empty_sum")


def _rounding(sheet: Worksheet, value: Tensor, result: Tensor) -> None:
    """Where the dtype of the call shows in the digits."""
    off = (value - result).abs().nan_to_num(nan=0.0, posinf=0.0).flatten()
    if off.numel():
        worst = int(off.argmax())
        exact, returned = float(value.flatten()[worst]), float(result.flatten()[worst])
        if sheet.say.shown(exact) != sheet.say.shown(returned):
            sheet.remark("rounded", returned=returned, exact=exact)
