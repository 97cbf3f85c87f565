"""Losses of a margin between scores."""

import torch
from torch import Tensor

from losskit.explanation.families.pointwise import binary_terms
from losskit.explanation.table import Column
from losskit.explanation.worksheet import Losses, Slope, Worksheet


def hinge_embedding_loss(sheet: Worksheet) -> Losses:
    margin = float(sheet["margin"])
    x, y = _given(sheet, ("x", "input"), ("y", "target"), keys=("distance", "sign"))
    sheet.symbol("margin", "margin", margin)
    apart = margin - x
    sheet.step("to_margin", "a = margin − x", ("x", x), ("a", apart))
    # A y that is neither has both terms, as it has for PyTorch.
    terms = torch.where(y != -1, x, 0.0), torch.where(y != 1, apart.clamp(min=0), 0.0)
    values = terms[0] + terms[1]
    sheet.step(
        "hinge_embedding",
        "ℓ = [y ≠ −1] · x + [y ≠ 1] · max(0, a)",
        ("[y ≠ −1] · x", terms[0]),
        ("[y ≠ 1] · max(0, a)", terms[1]),
        ("ℓ", values),
    )
    slope = (y != -1).double() - ((y != 1) & (apart >= 0)).double()
    _sign_remark(sheet, y, "signs_hinge")
    below = sheet.counting() & (x < 0)
    if below.any():
        sheet.remark("negative_distance", n=int(below.sum()), total=x.numel(), least=float(x[below].min()))
    _inactive_remark(sheet, (y == -1) & (apart < 0))
    return Losses(values, {"input": Slope("x", "[y ≠ −1] − [y ≠ 1] · [a ≥ 0]", slope)})


def margin_ranking_loss(sheet: Worksheet) -> Losses:
    margin = float(sheet["margin"])
    x1, x2, y = _given(
        sheet, ("x₁", "input1"), ("x₂", "input2"), ("y", "target"), keys=("first_score", "second_score", "order")
    )
    sheet.symbol("margin", "margin", margin)
    difference = x1 - x2
    sheet.step("score_difference", "d = x₁ − x₂", ("x₁", x1), ("x₂", x2), ("d", difference))
    signed = margin - y * difference
    values = signed.clamp(min=0)
    sheet.step("ranking", "ℓ = max(0, a), a = margin − y · d", ("y · d", y * difference), ("a", signed), ("ℓ", values))
    # The derivative of max(0, a) at 0 is 1 here.
    active = (signed >= 0).double()
    _sign_remark(sheet, y, "signs_ranking")
    _inactive_remark(sheet, signed < 0)
    wrong = sheet.counting() & (y * difference < 0)
    if wrong.any():
        sheet.remark("wrong_order", n=int(wrong.sum()), total=y.numel(), where=sheet.place(sheet.first(wrong)))
    return Losses(
        values,
        {
            "input1": Slope("x₁", "−y · [a ≥ 0]", -y * active),
            "input2": Slope("x₂", "y · [a ≥ 0]", y * active),
        },
    )


def soft_margin_loss(sheet: Worksheet) -> Losses:
    x, y = _given(sheet, ("x", "input"), ("y", "target"), keys=("sign_score", "sign"))
    product = y * x
    sheet.step("agreement", "a = y · x", ("x", x), ("y", y), ("a", product))
    values = (-product).clamp(min=0) + torch.log1p(torch.exp(-product.abs()))
    sheet.step("soft_margin", "ℓ = log(1 + exp(−a))", ("a", product), ("ℓ", values))
    _sign_remark(sheet, y, "signs_soft")
    return Losses(values, {"input": Slope("x", "−y · σ(−a)", -y * torch.sigmoid(-product))})


def multi_margin_loss(sheet: Worksheet) -> Losses:
    power, margin = int(sheet["p"]), float(sheet["margin"])
    target = sheet.indices("target")
    x = sheet.wide("input").reshape([*target.shape, -1]) if target.numel() else sheet.wide("input")
    sheet.begin(target.shape, "sample")
    classes = x.shape[-1]
    target = sheet.kept(target)
    own = (torch.arange(classes) == target.unsqueeze(-1)) & sheet.counting().unsqueeze(-1)
    _class_symbols(sheet, x, own)
    sheet.symbol("t", "target_class")
    sheet.symbol("margin", "margin", margin)
    sheet.step("scores", "x_c", sheet.raw("x", x, "class", own))
    x = sheet.kept(x)
    gap = margin - x.gather(-1, target.unsqueeze(-1)) + x
    others = ~own & sheet.counting().unsqueeze(-1)
    sheet.step("gaps", "a_c = margin − x_t + x_c, c ≠ t", Column("a", gap, "class", given=others))
    excess = torch.where(others, gap, 0.0)
    excess = torch.where(excess <= 0, 0.0, excess)
    powered, exponent = excess**power, "" if power == 1 else f"^{power}"
    sheet.step("hinges", f"h_c = max(0, a_c){exponent}", Column("h", powered, "class", given=others), exponent=exponent)
    values = powered.sum(-1) / classes
    sheet.step(
        "class_average",
        "ℓ = Σ_c h_c / C",
        ("Σ h", powered.sum(-1)),
        ("C", torch.full_like(target, classes)),
        ("ℓ", values),
    )
    weight = None
    factor = torch.ones(sheet.shape, dtype=torch.float64)
    if sheet.has("weight"):
        factor = sheet.wide("weight")[target]
        sheet.symbol("w_c", "class_weight")
        sheet.step(
            "class_weight", "ℓ ← w_t · ℓ", ("t", target), ("w_t", factor), ("ℓ", values), ("w_t · ℓ", values * factor)
        )
        values, weight = values * factor, factor
    slope = (excess > 0).double() if power == 1 else 2 * excess
    # The subgradient at a NaN is one, as it is for a comparison that fails.
    slope = slope - own.double() * slope.sum(-1, keepdim=True)
    slope = slope * (factor / classes).unsqueeze(-1)
    _inactive_remark(sheet, values == 0)
    text = "[a_c > 0]" if power == 1 else "2 · max(0, a_c)"
    front = "w_t / C" if weight is not None else "1 / C"
    return Losses(
        values,
        {
            "input": Slope(
                "x_c",
                f"{front} · ([c ≠ t] · g_c − [c = t] · Σ_k g_k), g_c = {text}",
                slope,
                lambda g: g.reshape(sheet["input"].shape),
                lambda g: g.reshape([*sheet.shape, classes]),
                axis="class",
            )
        },
        weight=weight,
    )


def multilabel_margin_loss(sheet: Worksheet) -> Losses:
    x, target = sheet.wide("input"), sheet.indices("target")
    if x.ndim < 2:
        x, target = x.reshape(-1), target.reshape(-1)
    sheet.begin(x.shape[:-1], "sample")
    classes = x.shape[-1]
    # A list ends before its first −1.
    listed = (target >= 0).long().cumprod(-1).bool()
    listed &= sheet.counting().unsqueeze(-1)
    longest = int(listed.sum(-1).max()) if target.numel() else 0
    labels, listed = target[..., :longest].clamp(min=0), listed[..., :longest]
    named = torch.zeros(x.shape, dtype=torch.int64).scatter_add(-1, labels, listed.long())
    _class_symbols(sheet, x, named > 0)
    sheet.symbol("t", "listed_class")
    sheet.step("scores", "x_c", sheet.raw("x", x, "class", named > 0))
    x = sheet.kept(x)
    # (…, longest, C): each listed class against each that is not.
    pairs = listed.unsqueeze(-1) & (named == 0).unsqueeze(-2)
    gap = 1 - x.gather(-1, labels).unsqueeze(-1) + x.unsqueeze(-2)
    excess = torch.where(pairs, gap, 0.0)
    excess = torch.where(excess <= 0, 0.0, excess)
    sheet.step(
        "pairs",
        "h_tc = max(0, 1 − x_t + x_c), c ∉ y",
        Column("t", labels, given=listed),
        Column("h", excess, "class", given=pairs),
        row_name="sample_entry",
    )
    values = excess.sum((-2, -1)) / classes
    sheet.step(
        "pair_average",
        "ℓ = Σ_t Σ_c h_tc / C",
        ("Σ h", excess.sum((-2, -1))),
        ("C", torch.full(sheet.shape, classes)),
        ("ℓ", values),
    )
    active = (excess > 0).double()
    slope = active.sum(-2).scatter_add(-1, labels, -active.sum(-1)) / classes
    counted = sheet.counting()
    empty = counted & ~(named > 0).any(-1)
    if empty.any():
        sheet.remark("empty_list", n=int(empty.sum()), total=empty.numel(), where=sheet.place(sheet.first(empty)))
    twice = counted & (named > 1).any(-1)
    if twice.any():
        sheet.remark("listed_twice", n=int(twice.sum()), total=twice.numel(), where=sheet.place(sheet.first(twice)))
    _inactive_remark(sheet, (values == 0) & ~empty)
    return Losses(
        values,
        {
            "input": Slope(
                "x_c",
                "1 / C · (Σ_t [h_tc > 0] − Σ_t [c = t] · Σ_k [h_tk > 0])",
                slope,
                lambda g: g.reshape(sheet["input"].shape),
                lambda g: g.reshape(x.shape),
                axis="class",
            )
        },
    )


def multilabel_soft_margin_loss(sheet: Worksheet) -> Losses:
    x, y = sheet.wide("input"), sheet.wide("target")
    weight = sheet.wide("weight") if sheet.has("weight") else torch.ones((), dtype=torch.float64)
    axis, classes = x.ndim - 1, x.shape[-1]
    shape = torch.broadcast_shapes(x.shape, y.shape, weight.shape)
    # The axis of the classes is that of input, counted from the first.
    x, y, weight = (tensor.expand(shape).movedim(axis, -1) for tensor in (x, y, weight))
    sheet.begin(x.shape[:-1], "sample")
    _class_symbols(sheet, x, y == 1)
    sheet.symbol("y_c", "yes")
    sheet.step("scores_and_targets", "x_c, y_c", sheet.raw("x", x, "class"), sheet.raw("y", y, "class"))
    x, y = sheet.kept(x), sheet.kept(y)
    p = torch.sigmoid(x)
    sheet.step("sigmoids", "p_c = 1 / (1 + exp(−x_c))", Column("p", p, "class"))
    terms = binary_terms(x, y)
    sheet.step("binary_terms", "b_c = −y_c · log p_c − (1 − y_c) · log(1 − p_c)", Column("b", terms, "class"))
    formula = "ℓ = Σ_c b_c / C"
    if sheet.has("weight"):
        formula = "ℓ = Σ_c w_c · b_c / C"
        sheet.symbol("w_c", "weight")
        sheet.step(
            "weighted_terms", "w_c · b_c", Column("w", weight, "class"), Column("w · b", weight * terms, "class")
        )
    values = (weight * terms).sum(-1) / classes if classes else (weight * terms).sum(-1) / 0.0
    sheet.step("class_average", formula, ("ℓ", values))
    outside = sheet.counting().unsqueeze(-1) & ((y < 0) | (y > 1))
    if outside.any():
        least, largest = y[sheet.counting()].aminmax()
        sheet.remark(
            "target_outside", n=int(outside.sum()), total=y.numel(), least=float(least), largest=float(largest)
        )
    slope = weight * (p - y) / max(classes, 1)
    text = "w_c · (p_c − y_c) / C" if sheet.has("weight") else "(p_c − y_c) / C"
    return Losses(
        values,
        {
            "input": Slope(
                "x_c", text, slope, lambda g: g.movedim(-1, axis), lambda g: g.movedim(axis, -1), axis="class"
            )
        },
    )


def _given(sheet: Worksheet, *names: tuple[str, str], keys: tuple[str, ...]) -> list[Tensor]:
    """The tensors of a loss per element, as a table shows them, and then without what does not count."""
    tensors = [sheet.wide(name) for _, name in names]
    sheet.begin(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)), "element")
    tensors = [tensor.expand(sheet.shape) for tensor in tensors]
    for (symbol, _), key in zip(names, keys, strict=True):
        sheet.symbol(symbol, key)
    symbols = [symbol for symbol, _ in names]
    sheet.step("given", ", ".join(symbols), *(sheet.raw(s, tensor) for s, tensor in zip(symbols, tensors, strict=True)))
    return [sheet.kept(tensor) for tensor in tensors]


def _class_symbols(sheet: Worksheet, x: Tensor, mark: Tensor) -> None:
    sheet.symbol("x_c", "score")
    sheet.symbol("C", "classes", x.shape[-1])
    sheet.importance["class"], sheet.targets["class"] = x, mark


def _sign_remark(sheet: Worksheet, y: Tensor, key: str) -> None:
    other = sheet.counting() & (y != 1) & (y != -1)
    if other.any():
        index = sheet.first(other)
        sheet.remark(key, n=int(other.sum()), total=y.numel(), value=float(y[index]), where=sheet.place(index))


def _inactive_remark(sheet: Worksheet, inactive: Tensor) -> None:
    inactive = inactive & sheet.counting()
    if inactive.any():
        sheet.remark("inactive", n=int(inactive.sum()), total=inactive.numel())


LESSONS = {
    "hinge_embedding_loss": hinge_embedding_loss,
    "margin_ranking_loss": margin_ranking_loss,
    "multi_margin_loss": multi_margin_loss,
    "multilabel_margin_loss": multilabel_margin_loss,
    "multilabel_soft_margin_loss": multilabel_soft_margin_loss,
    "soft_margin_loss": soft_margin_loss,
}
