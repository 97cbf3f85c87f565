"""Losses of a row of scores against a class."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from losskit.explanation.table import Column
from losskit.explanation.worksheet import Losses, Slope, Worksheet, bracketed, times

# How far a sum of probabilities may be from 1, in float32 and in half precision.
_NEAR_ONE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}


def cross_entropy(sheet: Worksheet) -> Losses:
    input = sheet.wide("input")
    class_dim = 1 if input.ndim > 1 else 0
    scores = input.movedim(class_dim, -1)
    sheet.begin(scores.shape[:-1], "sample")
    target = _target(sheet, class_dim, sheet["target"].shape == input.shape)
    sheet.symbol("x_c", "score")
    losses, slope, formula = _of_scores(sheet, scores, target)
    return _class_losses(sheet, losses, target, {"input": _class_slope("x_c", formula, slope, class_dim)})


def linear_cross_entropy(sheet: Worksheet) -> Losses:
    if sheet["shift"]:
        _shift(sheet)
    x, weight = sheet.wide("input"), sheet.wide("linear_weight")
    # (…, C, K): the classes beside the features, as a matrix of a layer has them.
    rows = weight.movedim(0, -2)
    shape = torch.Size([*x.shape[:-1], *rows.shape[:-2]])
    sheet.begin(shape, "sample")
    # Of the target: a map has its places behind the classes, and a sequence its positions before them.
    class_dim = 1 if weight.ndim > 2 else x.ndim - 1
    places = math.prod(rows.shape[:-2])
    probabilities = sheet["target"].shape == torch.Size([*x.shape[:-1], *weight.shape[:-1]])
    target = _target(sheet, class_dim, probabilities)
    counted = sheet.counting().reshape([*x.shape[:-1], places]).any(-1, keepdim=True)
    kept = torch.where(counted, x, 0.0)
    matrix = rows.reshape(-1, rows.shape[-1])
    scores = (kept @ matrix.T).reshape([*shape, weight.shape[0]])
    formula = "z_c = Σ_k x_k · W_ck"
    if sheet.has("linear_bias"):
        scores = scores + sheet.wide("linear_bias").movedim(0, -1)
        formula += " + b_c"
    sheet.symbol("x_k", "feature")
    sheet.symbol("W", "linear_weight")
    if sheet.has("linear_bias"):
        sheet.symbol("b", "linear_bias")
    # A feature vector may have many losses, one at each place of a map.
    repeated = x.reshape([*x.shape[:-1], *[1] * (rows.ndim - 2), x.shape[-1]]).expand([*shape, x.shape[-1]])
    sheet.step("linear", formula, sheet.raw("x", repeated, "feature"), Column("z", scores, "class"))
    sheet.symbol("z_c", "score_of_layer")
    losses, at_scores, formula = _of_scores(sheet, scores, target, "z")
    factor = bracketed(formula)

    def flat(g: Tensor) -> Tensor:
        return g.reshape([*x.shape[:-1], matrix.shape[0]])

    def by_weight(g: Tensor) -> Tensor:
        product = flat(g).reshape(-1, matrix.shape[0]).T @ kept.reshape(-1, matrix.shape[1])
        return product.reshape(rows.shape).movedim(-2, 0)

    def by_bias(g: Tensor) -> Tensor:
        return flat(g).reshape(-1, matrix.shape[0]).sum(0).reshape(rows.shape[:-1]).movedim(-1, 0)

    slopes = {
        "input": Slope(
            "x_k",
            f"Σ_c W_ck · {factor}",
            at_scores,
            lambda g: flat(g) @ matrix,
            axis="feature",
            row_name="sample",
        ),
        "linear_weight": Slope("W_ck", f"Σ_n x_k · {factor}", at_scores, by_weight, axis="feature", row_name="class"),
    }
    if sheet.has("linear_bias"):
        slopes["linear_bias"] = Slope("b_c", f"Σ_n {factor}", at_scores, by_bias, row_name="class")
    return _class_losses(sheet, losses, target, slopes)


def nll_loss(sheet: Worksheet) -> Losses:
    input = sheet.wide("input")
    class_dim = 1 if input.ndim > 1 else 0
    log_p = input.movedim(class_dim, -1)
    sheet.begin(log_p.shape[:-1], "sample")
    target = _target(sheet, class_dim, False)
    sheet.symbol("log p_c", "log_probability")
    one_hot = _one_hot(sheet, target, log_p.shape[-1])
    sheet.importance["class"], sheet.targets["class"] = log_p, one_hot
    sheet.symbol("t", "target_class")
    sheet.symbol("C", "classes", log_p.shape[-1])
    sheet.step("log_probabilities", "log p_c", sheet.raw("log p", log_p, "class", one_hot))
    kept = sheet.kept(log_p)
    if not kept.shape[-1]:
        return _of_no_class(sheet, kept, class_dim)
    losses = _of_target(sheet, -kept, target)
    factor = sheet.wide("weight")[target] if sheet.has("weight") else torch.ones(target.shape, dtype=torch.float64)
    slope = -one_hot.to(torch.float64) * factor.unsqueeze(-1)
    formula = "−w_t · [c = t]" if sheet.has("weight") else "−[c = t]"
    if sheet.counting().any():
        _log_probability_remarks(sheet, kept, target)
    return _class_losses(sheet, losses, target, {"input": _class_slope("(log p_c)", formula, slope, class_dim)})


def _target(sheet: Worksheet, class_dim: int, probabilities: bool) -> Tensor:
    """Class indices in the shape of the losses, with a valid one where nothing counts; or rows of probabilities."""
    if probabilities:
        return sheet.kept(sheet.wide("target").movedim(class_dim, -1))
    target = sheet.indices("target").reshape(sheet.shape)
    index = sheet["ignore_index"]
    ignored = target == (-100 if index is None else index)
    if ignored.any():
        sheet.ignore(ignored)
        sheet.remark("ignored", n=int(ignored.sum()), total=target.numel(), index=-100 if index is None else index)
    return sheet.kept(target)


def _shift(sheet: Worksheet) -> None:
    """Move what belongs to the labels, as the loss does, for all steps that follow."""
    leading, shift = sheet["input"].shape[:-1], min(sheet["shift"], sheet["input"].shape[-2])
    index = -100 if sheet["ignore_index"] is None else sheet["ignore_index"]

    def moved(values: Tensor, axis: int, filling: float) -> Tensor:
        values = values.roll(-shift, axis)
        values.narrow(axis, leading[-1] - shift, shift).fill_(filling)
        return values

    arguments = dict(sheet.request.arguments)
    if sheet["target"].is_floating_point():
        arguments["target"] = moved(sheet["target"], -2, 0)
        mask = sheet["mask"] if sheet.has("mask") else torch.ones((), dtype=torch.bool)
        arguments["mask"] = moved(mask.expand(leading), -1, False)
    else:
        arguments["target"] = moved(sheet.indices("target"), -1, index)
        if sheet.has("mask"):
            arguments["mask"] = moved(sheet["mask"].expand(leading), -1, False)
    if sheet.has("sample_weight"):
        arguments["sample_weight"] = moved(sheet["sample_weight"].expand(leading), -1, 0)
    sheet.request = replace(sheet.request, arguments=arguments)
    sheet.remark("shift", shift=sheet["shift"])


def _of_scores(sheet: Worksheet, scores: Tensor, target: Tensor, name: str = "x") -> tuple[Tensor, Tensor, str]:
    """The loss of each row, its derivative by the scores, and the formula of that."""
    classes = scores.shape[-1]
    probabilities = target.is_floating_point()
    if not classes:
        mark = torch.zeros(scores.shape, dtype=torch.bool)
    elif probabilities:
        mark = target == target.amax(-1, keepdim=True)
    else:
        mark = _one_hot(sheet, target, classes)
    sheet.importance["class"], sheet.targets["class"] = scores, mark
    if probabilities:
        sheet.symbol("q_c", "target_probability")
    else:
        sheet.symbol("t", "target_class")
    sheet.symbol("C", "classes", classes)
    if name == "x":
        sheet.step("scores", "x_c", sheet.raw("x", scores, "class", mark))
    scores = sheet.kept(scores)
    formula = _slope_formula(sheet, probabilities)
    if not classes:
        return scores.sum(-1), scores, formula
    scores, chain, chain_formula, name = _scaled_and_capped(sheet, scores, name)
    # The same for any number added to the row; with its largest taken off, exp cannot overflow.
    shifted = scores - scores.amax(-1, keepdim=True)
    total = shifted.exp().sum(-1, keepdim=True)
    p, surprise = shifted.exp() / total, total.log() - shifted
    sheet.step("softmax", f"p_c = exp({name}_c) / Σ_k exp({name}_k)", Column("p", p, "class"))
    sheet.step("negative_log", "−log p_c", Column("−log p", surprise, "class", mark))
    if probabilities:
        losses, coefficients = _against_probabilities(sheet, surprise, target)
    else:
        losses = _of_target(sheet, surprise, target)
        coefficients = _smoothed(sheet, mark)
        if float(sheet["label_smoothing"]) != 0:
            losses = _with_smoothing(sheet, losses, surprise)
    slope = _slope(coefficients, p)
    if float(sheet["z_loss"]) != 0:
        coefficient, lse = float(sheet["z_loss"]), scores.logsumexp(-1)
        gained = sheet.kept(losses + coefficient * lse.square())
        sheet.symbol("λ", "z_loss", coefficient)
        sheet.step(
            "z_loss", f"ℓ ← ℓ + λ · lse², lse = ln Σ_k exp({name}_k)", ("ℓ", losses), ("lse", lse), ("ℓ′", gained)
        )
        losses, slope = gained, slope + 2 * coefficient * lse.unsqueeze(-1) * p
        formula += " + 2 λ · lse · p_c"
    if sheet.counting().any():
        _score_remarks(sheet, scores, surprise, target, name)
    return losses, slope * chain, f"{chain_formula} · {bracketed(formula)}" if chain_formula else formula


def _scaled_and_capped(sheet: Worksheet, scores: Tensor, name: str) -> tuple[Tensor, Tensor, str, str]:
    """The scores as logit_scale and softcap make them, their derivative, its formula, and their name."""
    scale, chain, formula, scaled = float(sheet["logit_scale"]), torch.ones((), dtype=torch.float64), "", f"{name}_c"
    if scale != 1:
        sheet.symbol("σ", "logit_scale", scale)
        scores, chain, formula, scaled = scale * scores, chain * scale, "σ", f"σ · {name}_c"
        if not sheet.has("softcap"):
            sheet.step("logit_scale", f"y_c = {scaled}", Column("y", scores, "class"))
    if sheet.has("softcap"):
        cap = float(sheet["softcap"])
        ratio = torch.tanh(scores / cap)
        scores, chain = cap * ratio, chain * (1 - ratio.square())
        formula += " · (1 − (y_c / κ)²)" if formula else "(1 − (y_c / κ)²)"
        sheet.symbol("κ", "softcap", cap)
        sheet.step("softcap", f"y_c = κ · tanh({scaled} / κ)", Column("y", scores, "class"))
    name = "y" if formula else name
    return scores, chain, formula, name


def _of_target(sheet: Worksheet, surprise: Tensor, target: Tensor) -> Tensor:
    """−log p of the target, with the weight of its class."""
    taken = surprise.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    sheet.step("target_class", "ℓ = −log p_t", ("t", target), ("p_t", torch.exp(-taken)), ("ℓ", taken))
    if not sheet.has("weight"):
        return sheet.kept(taken)
    weight = sheet.wide("weight")[target]
    # A class of weight 0 costs nothing, however unlikely it is.
    losses = (weight * taken).masked_fill(weight == 0, 0)
    sheet.symbol("w_c", "class_weight")
    sheet.step(
        "class_weight", "ℓ ← w_t · ℓ", ("t", target), ("w_t", weight), ("−log p_t", taken), ("w_t · (−log p_t)", losses)
    )
    return sheet.kept(losses)


def _with_smoothing(sheet: Worksheet, losses: Tensor, surprise: Tensor) -> Tensor:
    epsilon, weight = float(sheet["label_smoothing"]), _class_weight(sheet, surprise)
    uniform = times(weight, surprise).sum(-1) / surprise.shape[-1]
    smoothed = sheet.kept((1 - epsilon) * losses + epsilon * uniform)
    u = "Σ_c w_c · (−log p_c) / C" if sheet.has("weight") else "Σ_c (−log p_c) / C"
    sheet.symbol("ε", "label_smoothing", epsilon)
    sheet.step("smoothing", f"ℓ ← (1 − ε) · ℓ + ε · u, u = {u}", ("ℓ", losses), ("u", uniform), ("ℓ′", smoothed))
    return smoothed


def _against_probabilities(sheet: Worksheet, surprise: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    q, name = target, "q_c"
    sheet.step("target_probabilities", "q_c", Column("q", q, "class"))
    epsilon = float(sheet["label_smoothing"])
    if epsilon > 0:
        q = (1 - epsilon) * q + epsilon / q.shape[-1]
        sheet.symbol("ε", "label_smoothing", epsilon)
        sheet.step("smoothed_probabilities", "q_c ← (1 − ε) · q_c + ε / C", Column("q", sheet.kept(q), "class"))
    if sheet.has("weight"):
        q, name = q * sheet.wide("weight"), "w_c · q_c"
        sheet.symbol("w_c", "class_weight")
    terms = sheet.kept(times(q, surprise))
    sheet.step("terms", f"{name} · (−log p_c)", Column(f"{name.replace('_c', '')} · (−log p)", terms, "class"))
    losses = terms.sum(-1)
    sheet.step("sum_of_classes", f"ℓ = Σ_c {name} · (−log p_c)", ("ℓ", losses))
    return losses, sheet.kept(q)


def _smoothed(sheet: Worksheet, one_hot: Tensor) -> Tensor:
    """The coefficients a of Σ_c a_c·(−log p_c) for class indices."""
    epsilon, weight = float(sheet["label_smoothing"]), _class_weight(sheet, one_hot)
    return sheet.kept(((1 - epsilon) * one_hot.to(torch.float64) + epsilon / one_hot.shape[-1]) * weight)


def _class_weight(sheet: Worksheet, like: Tensor) -> Tensor:
    if sheet.has("weight"):
        return sheet.wide("weight")
    return torch.ones(like.shape[-1], dtype=torch.float64)


def _slope(coefficients: Tensor, p: Tensor) -> Tensor:
    return p * coefficients.sum(-1, keepdim=True) - coefficients


def _slope_formula(sheet: Worksheet, probabilities: bool) -> str:
    weighted, smoothed = sheet.has("weight"), float(sheet["label_smoothing"]) != 0
    if probabilities:
        return "p_c · Σ_k w_k · q_k − w_c · q_c" if weighted else "p_c · Σ_k q_k − q_c"
    if not smoothed:
        return "w_t · (p_c − [c = t])" if weighted else "p_c − [c = t]"
    if not weighted:
        return "p_c − (1 − ε) · [c = t] − ε / C"
    return "(1 − ε) · w_t · (p_c − [c = t]) + ε / C · (p_c · Σ_k w_k − w_c)"


def _class_slope(symbol: str, formula: str, values: Tensor, class_dim: int) -> Slope:
    return Slope(
        symbol,
        formula,
        values,
        lambda g: g.movedim(-1, class_dim),
        lambda g: g.movedim(class_dim, -1),
        "class",
    )


def _class_losses(sheet: Worksheet, losses: Tensor, target: Tensor, slopes: dict[str, Slope]) -> Losses:
    if not sheet.targets["class"].shape[-1]:
        # Without a class nothing counts.
        return Losses(losses, slopes, torch.zeros(sheet.shape, dtype=torch.float64))
    if target.is_floating_point():
        return Losses(losses, slopes)
    if sheet.counted is not None and sheet.counted is not sheet.mask:
        given = sheet.indices("target").reshape(sheet.shape)
        sheet.step("ignore", "ℓ ← [t ≠ ignore_index] · ℓ", sheet.raw("t", given), sheet.raw("ℓ", losses))
    if not sheet.has("weight"):
        return Losses(losses, slopes)
    return Losses(losses, slopes, sheet.kept(sheet.wide("weight")[target]), "w_t")


def _of_no_class(sheet: Worksheet, log_p: Tensor, class_dim: int) -> Losses:
    nothing = torch.zeros(sheet.shape, dtype=torch.float64)
    return Losses(nothing, {"input": _class_slope("(log p_c)", "0", log_p, class_dim)}, nothing)


def _one_hot(sheet: Worksheet, target: Tensor, classes: int) -> Tensor:
    return (torch.arange(classes) == target.unsqueeze(-1)) & sheet.counting().unsqueeze(-1)


def _score_remarks(sheet: Worksheet, scores: Tensor, surprise: Tensor, target: Tensor, name: str) -> None:
    counted = sheet.counting()
    x, lost, target = scores[counted], surprise[counted], target[counted]
    classes = x.shape[-1]
    if classes == 1:
        sheet.remark("one_class")
        return
    if target.is_floating_point():
        _distribution_remarks(sheet, x, lost, target)
    else:
        right = int((x.argmax(-1) == target).sum())
        sheet.remark("right", n=right, total=len(x))
        _mean_remarks(sheet, lost.gather(-1, target.unsqueeze(-1)).squeeze(-1), target, classes)
        epsilon = float(sheet["label_smoothing"])
        if epsilon > 0 and not sheet.has("weight"):
            shares = [1 - epsilon + epsilon / classes, *[epsilon / classes] * (classes - 1)]
            sheet.remark("smoothing_floor", floor=-sum(share * math.log(share) for share in shares))
        if name == "x":
            _textbook_remark(sheet, x.gather(-1, target.unsqueeze(-1)).squeeze(-1), lost, target)
    near = _NEAR_ONE[sheet["input"].dtype]
    if name == "x" and bool(_are_probabilities(x, near)):
        sheet.remark("softmax_twice", classes=classes, floor=_floor(classes))
    elif name == "x" and bool((x.logsumexp(-1).abs() <= near).all()):
        sheet.remark("log_softmax_before")


def _textbook_remark(sheet: Worksheet, taken: Tensor, lost: Tensor, target: Tensor) -> None:
    """What −Σ y·log x is where the scores are taken for probabilities, as some textbooks' examples do."""
    if bool((taken > 0).all()) and bool(taken.isfinite().all()):
        wrong = -taken.log()
        right = lost.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        if len(taken) == 1:
            sheet.remark("textbook_single", wrong=float(wrong), right=float(right))
            return
        sheet.remark(
            "textbook",
            sum=float(wrong.sum()),
            mean=float(wrong.mean()),
            right_sum=float(right.sum()),
            right_mean=float(right.mean()),
        )


def _mean_remarks(sheet: Worksheet, surprise: Tensor, target: Tensor, classes: int) -> None:
    """What the mean of −log p of the targets says, and where it is lost."""
    counted = sheet.counting()
    mean = float(surprise.mean())
    if math.isfinite(mean) and mean >= 0:
        baseline = math.log(classes)
        sheet.remark("mean_probability", mean=mean, p=math.exp(-mean))
        sheet.remark("baseline", classes=classes, baseline=baseline, compared=sheet.compared(mean, baseline))
    lost = surprise > -math.log(1e-6)
    if lost.any():
        first = int(lost.nonzero()[0])
        index = tuple(counted.nonzero()[first].tolist())
        p = math.exp(-float(surprise[first]))
        key = "saturated" if sheet.request.loss.name != "nll_loss" else "saturated_nll"
        sheet.remark(key, n=int(lost.sum()), total=len(surprise), where=sheet.place(index), p=p, slope=p - 1)
    if sheet.has("weight") and not sheet.request.arguments.get("label_smoothing"):
        weight = sheet.wide("weight")
        zero = (weight == 0).nonzero().flatten().tolist()
        if zero:
            shown = ", ".join(map(str, zero[:5])) + (", …" if len(zero) > 5 else "")
            sheet.remark("class_weight_zero", classes=shown, n=int((weight[target] == 0).sum()), total=len(target))


def _distribution_remarks(sheet: Worksheet, x: Tensor, lost: Tensor, q: Tensor) -> None:
    near = _NEAR_ONE[sheet["target"].dtype]
    wrong = (q < 0).any(-1) | ((q.sum(-1) - 1).abs() > near)
    if wrong.any():
        row = q[wrong][0]
        sheet.remark("no_distribution", n=int(wrong.sum()), total=len(q), sum=float(row.sum()), least=float(row.min()))
        return
    if bool(((q == 0) | (q == 1)).all()):
        index = q.argmax(-1)
        sheet.remark("one_hot")
        _mean_remarks(sheet, lost.gather(-1, index.unsqueeze(-1)).squeeze(-1), index, q.shape[-1])
        _textbook_remark(sheet, x.gather(-1, index.unsqueeze(-1)).squeeze(-1), lost, index)
        return
    entropy = float(-torch.xlogy(q, q).sum(-1).mean())
    mean = float(times(q, lost).sum(-1).mean())
    sheet.remark("entropy_floor", entropy=entropy, mean=mean, above=mean - entropy)


def _log_probability_remarks(sheet: Worksheet, log_p: Tensor, target: Tensor) -> None:
    counted = sheet.counting()
    x, target = log_p[counted], target[counted]
    near = _NEAR_ONE[sheet["input"].dtype]
    taken = x.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    if bool((x.logsumexp(-1).abs() <= near).all()):
        _mean_remarks(sheet, -taken, target, x.shape[-1])
        shift = _shift_to_probabilities(x, near)
        if shift is not None:
            sheet.remark("softmax_before_log_softmax", shift=shift, classes=x.shape[-1], floor=_floor(x.shape[-1]))
    elif bool(_are_probabilities(x, near)):
        sheet.remark("probabilities_for_logs", mean=float(-taken.log().mean()))
    else:
        mean = float((x.logsumexp(-1) - taken).mean())
        sheet.remark("scores_for_logs", sum=float(x[0].exp().sum()), mean=mean)


def _are_probabilities(x: Tensor, near: float) -> bool:
    """Whether every row lies in [0, 1] and adds up to 1."""
    inside = (x >= -1e-6) & (x <= 1 + 1e-6)
    return bool(inside.all()) and bool(((x.sum(-1) - 1).abs() <= near).all())


def _shift_to_probabilities(log_p: Tensor, near: float) -> float | None:
    """What makes probabilities of the first row when it is added, if these are log_softmax of probabilities.

    A flat row is near probabilities whatever it comes from, so that one row must have a class of 0.9 or more.
    """
    shift = (1 - log_p.sum(-1, keepdim=True)) / log_p.shape[-1]
    before = log_p + shift
    if log_p.shape[-1] > 1 and _are_probabilities(before, near) and bool((before.amax(-1) >= 0.9).any()):
        return float(shift[0])
    return None


def _floor(classes: int) -> float:
    """The least cross entropy that probabilities taken for scores can have: one is 1 and the others are 0."""
    return math.log1p((classes - 1) * math.exp(-1))


LESSONS = {
    "cross_entropy": cross_entropy,
    "linear_cross_entropy": linear_cross_entropy,
    "nll_loss": nll_loss,
}
