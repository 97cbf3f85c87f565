"""Losses of pairs of vectors, each pair against all the others."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from losskit.explanation.table import Column
from losskit.explanation.worksheet import OF_ALL, Losses, Slope, Worksheet, bracketed, times


class _Vectors:
    """The vectors of an argument, divided by their lengths where the call does, and the way of a gradient back."""

    def __init__(self, sheet: Worksheet, given: Tensor) -> None:
        self.length: Tensor | None = None
        self.used = given
        if sheet["normalize"]:
            length: Tensor = torch.linalg.vector_norm(given, dim=-1, keepdim=True)
            zero = length == 0
            self.length = length.masked_fill(zero, math.inf)
            # By the largest number first, whose squares neither overflow nor vanish.
            largest = given.abs().amax(-1, keepdim=True)
            scaled = given / torch.where(zero, 1.0, largest)
            self.used = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).masked_fill(zero, 1.0)

    def back(self, by_used: Tensor) -> Tensor:
        """The gradient by the vectors from that by the ones of length 1: what points along them is lost."""
        if self.length is None:
            return by_used
        return (by_used - self.used * (self.used * by_used).sum(-1, keepdim=True)) / self.length


def info_nce(sheet: Worksheet) -> Losses:
    temperature = float(sheet["temperature"])
    query, key = _pairs(sheet, ("query", "q"), ("key", "k"))
    sheet.symbol("τ", "temperature", temperature)
    q, k = query.used, key.used
    others: _Vectors | None = None
    if sheet.has("negatives"):
        others = _Vectors(sheet, sheet.wide("negatives"))
        sheet.symbol("m", "negatives")
        rest = q @ others.used.T if others.used.ndim == 2 else (others.used @ q.unsqueeze(-1)).squeeze(-1)
        z = torch.cat(((q * k).sum(-1, keepdim=True), rest), 1) / temperature
        own = (torch.arange(z.shape[1]) == 0).expand(z.shape)
        formula = "z_n0 = q_n · k_n / τ, z_nj = q_n · m_j / τ"
    else:
        z = _of_counted(sheet, q @ k.T / temperature)
        own = _own(sheet)
        formula = "z_nj = q_n · k_j / τ"
    _similarities(sheet, z, own, formula)
    p, surprise = _softmax(z)
    sheet.step("softmax", "p_nj = exp(z_nj) / Σ_i exp(z_ni)", Column("p", p, "column", own))
    losses = sheet.kept(_own_entries(surprise, own))
    partner = "0" if others else "n"
    sheet.step("own_partner", f"ℓ = −log p_n{partner}", ("p", torch.exp(-losses)), ("ℓ", losses))
    _remarks(sheet, z, own, losses)
    slope = p - own.double()
    factor = bracketed(f"p_nj − [j = {partner}]")
    ways = _in_batch(query, key, temperature) if others is None else _of_negatives(query, key, others, temperature)
    formulas = {"query": f"Σ_j {factor} · ∂z_nj/∂q_n", "key": f"Σ_n {factor} · ∂z_nj/∂k_j"}
    if others:
        each = others.used.ndim == 3
        formulas["key"] = "(p_n0 − 1) · ∂z_n0/∂k_n"
        formulas["negatives"] = "p_nj · ∂z_nj/∂m_nj" if each else "Σ_n p_nj · ∂z_nj/∂m_j"
    symbols = {"query": "q_n", "key": "k_n", "negatives": "m_j"}
    rows = {"negatives": "sample_entry" if others and others.used.ndim == 3 else "negative"}
    slopes = {
        name: Slope(symbols[name], formulas[name], slope, way, axis="feature", row_name=rows.get(name, ""))
        for name, way in ways.items()
    }
    slopes["temperature"] = _by_number(
        sheet, "temperature", "τ", f"−Σ_n Σ_j {factor} · z_nj / τ", slope, lambda g: -times(g, z) / temperature
    )
    return Losses(losses, slopes)


def _in_batch(query: _Vectors, key: _Vectors, temperature: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """From gradients by the similarities to those by the vectors."""
    return {
        "query": lambda g: query.back(g @ key.used / temperature),
        "key": lambda g: key.back(g.T @ query.used / temperature),
    }


def _of_negatives(
    query: _Vectors, key: _Vectors, negatives: _Vectors, temperature: float
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The same, with the own similarity in front."""
    q, k, m = query.used, key.used, negatives.used
    shared = m.ndim == 2

    def by_query(g: Tensor) -> Tensor:
        rest = g[:, 1:] @ m if shared else (g[:, 1:].unsqueeze(1) @ m).squeeze(1)
        return query.back((g[:, :1] * k + rest) / temperature)

    def by_negatives(g: Tensor) -> Tensor:
        by_used = g[:, 1:].T @ q if shared else g[:, 1:].unsqueeze(-1) * q.unsqueeze(1)
        return negatives.back(by_used / temperature)

    return {
        "query": by_query,
        "key": lambda g: key.back(g[:, :1] * q / temperature),
        "negatives": by_negatives,
    }


def clip_loss(sheet: Worksheet) -> Losses:
    scale = float(sheet["logit_scale"])
    image, text = _pairs(sheet, ("image_features", "x"), ("text_features", "y"))
    sheet.symbol("s", "logit_scale", scale)
    x, y, own = image.used, text.used, _own(sheet)
    z = _of_counted(sheet, scale * x @ y.T)
    _similarities(sheet, z, own, "z_nj = s · x_n · y_j")
    p, of_image = _softmax(z)
    r, of_text = _softmax(_of_counted(sheet, scale * y @ x.T))
    sheet.step("softmax", "p_nj = exp(z_nj) / Σ_i exp(z_ni)", Column("p", p, "column", own))
    sheet.step("other_softmax", "r_nj = exp(z_jn) / Σ_i exp(z_in)", Column("r", r, "column", own))
    one, other = _own_entries(of_image, own), _own_entries(of_text, own)
    losses = sheet.kept((one + other) / 2)
    sheet.step("both_ways", "ℓ = −(log p_nn + log r_nn) / 2", ("−log p", one), ("−log r", other), ("ℓ", losses))
    _remarks(sheet, z, own, losses)
    # One for what the image pays and one for what the text pays.
    slope = torch.stack((p - own.double(), r - own.double()), 1) / 2  # (N, 2, N)

    def by_similarities(g: Tensor) -> Tensor:
        return g[:, 0] + g[:, 1].T

    factor = "(p_nj + r_jn − 2 · [j = n]) / 2"
    slopes = {
        "image_features": Slope(
            "x_n",
            f"Σ_j {factor} · ∂z_nj/∂x_n",
            slope,
            lambda g: image.back(scale * by_similarities(g) @ y),
            axis="feature",
        ),
        "text_features": Slope(
            "y_j",
            f"Σ_n {factor} · ∂z_nj/∂y_j",
            slope,
            lambda g: text.back(scale * by_similarities(g).T @ x),
            axis="feature",
        ),
        "logit_scale": _by_number(
            sheet,
            "logit_scale",
            "s",
            f"Σ_n Σ_j {factor} · x_n · y_j",
            slope,
            lambda g: by_similarities(g) * (x @ y.T),
        ),
    }
    return Losses(losses, slopes)


def siglip_loss(sheet: Worksheet) -> Losses:
    scale = float(sheet["logit_scale"])
    bias = float(sheet["logit_bias"]) if sheet.has("logit_bias") else 0.0
    image, text = _pairs(sheet, ("image_features", "x"), ("text_features", "y"))
    sheet.symbol("s", "logit_scale", scale)
    sheet.symbol("b", "logit_bias", bias)
    x, y, own = image.used, text.used, _own(sheet)
    counted = _both_counted(sheet)
    a = _of_counted(sheet, scale * x @ y.T + bias)
    _similarities(sheet, a, own, "a_nj = s · x_n · y_j + b", "a")
    p = a.sigmoid()
    sheet.step("pair_probability", "p_nj = 1 / (1 + exp(−a_nj))", Column("p", p, "column", own))
    signed = torch.where(own, a, -a)
    # log (1 + exp(−z)), from the similarity and not from the probability, which is rounded near 0 and 1.
    terms = (-signed).clamp(min=0) + torch.log1p(torch.exp(-signed.abs()))
    terms = torch.where(counted, terms, 0.0)
    sheet.step(
        "pair_terms",
        "c_nj = −[j = n] · log p_nj − [j ≠ n] · log (1 − p_nj)",
        Column("c", terms, "column", own),
    )
    losses = sheet.kept(terms.sum(1))
    sheet.step("sum_of_pairs", "ℓ = Σ_j c_nj", ("ℓ", losses))
    if bool(counted.any()) and not bool(losses.isnan().any()):
        mine, others = own & counted, ~own & counted
        sheet.remark(
            "wrong_side",
            own=int((mine & (p < 0.5)).sum()),
            n=int(mine.sum()),
            others=int((others & (p > 0.5)).sum()),
            m=int(others.sum()),
        )
    _zero_vectors(sheet)
    slope = torch.where(counted, p - own.double(), 0.0)
    factor = "(p_nj − [j = n])"
    slopes = {
        "image_features": Slope(
            "x_n", f"s · Σ_j {factor} · ∂(x_n · y_j)/∂x_n", slope, lambda g: image.back(scale * g @ y), axis="feature"
        ),
        "text_features": Slope(
            "y_j", f"s · Σ_n {factor} · ∂(x_n · y_j)/∂y_j", slope, lambda g: text.back(scale * g.T @ x), axis="feature"
        ),
        "logit_scale": _by_number(
            sheet, "logit_scale", "s", f"Σ_n Σ_j {factor} · x_n · y_j", slope, lambda g: g * (x @ y.T)
        ),
        "logit_bias": _by_number(sheet, "logit_bias", "b", f"Σ_n Σ_j {factor}", slope, lambda g: g),
    }
    return Losses(losses, slopes)


def _pairs(sheet: Worksheet, first: tuple[str, str], second: tuple[str, str]) -> tuple[_Vectors, _Vectors]:
    """The vectors of both sides, zeros for those that do not count."""
    one, two = sheet.wide(first[0]), sheet.wide(second[0])
    sheet.begin(one.shape[:1], "sample")
    for name, symbol in (first, second):
        sheet.symbol(symbol, name.removesuffix("_features"))
    symbols = first[1], second[1]
    sheet.step(
        "pair_vectors",
        f"{symbols[0]}, {symbols[1]}",
        sheet.raw(symbols[0], one, "feature"),
        sheet.raw(symbols[1], two, "feature"),
    )
    vectors = _Vectors(sheet, sheet.kept(one)), _Vectors(sheet, sheet.kept(two))
    if sheet["normalize"]:
        sheet.step(
            "unit_vectors",
            ", ".join(f"{symbol} ← {symbol} / ‖{symbol}‖" for symbol in symbols),
            *(Column(f"{symbol}′", each.used, "feature") for symbol, each in zip(symbols, vectors, strict=True)),
        )
    return vectors


def _own(sheet: Worksheet) -> Tensor:
    return torch.eye(*sheet.shape, dtype=torch.bool)


def _both_counted(sheet: Worksheet) -> Tensor:
    """True where the row and the column count."""
    counted = sheet.counting()
    return counted.unsqueeze(1) & counted


def _of_counted(sheet: Worksheet, z: Tensor) -> Tensor:
    """−∞ for the partners that are masked, as if they were not there, and 0 in the rows that are."""
    z = torch.where(sheet.counting(), z, -math.inf)
    return sheet.kept(z)


def _similarities(sheet: Worksheet, z: Tensor, own: Tensor, formula: str, name: str = "z") -> None:
    sheet.importance["column"], sheet.targets["column"] = z, own & sheet.counting().unsqueeze(1)
    sheet.step("similarities", formula, Column(name, z, "column", own))


def _softmax(z: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of each row, and −log of it."""
    if not z.shape[1]:
        return z, z
    # The same for any number added to the row; with its largest taken off, exp cannot overflow.
    shifted = z - z.amax(1, keepdim=True)
    total = shifted.exp().sum(1, keepdim=True)
    return shifted.exp() / total, total.log() - shifted


def _own_entries(values: Tensor, own: Tensor) -> Tensor:
    return torch.where(own, values, 0.0).sum(1)


def _by_number(
    sheet: Worksheet, name: str, symbol: str, formula: str, slope: Tensor, terms: Callable[[Tensor], Tensor]
) -> Slope:
    """The derivative by a single number that the call was given."""
    value = sheet[name]
    shape = value.shape if isinstance(value, Tensor) else ()
    return Slope(symbol, formula, slope, lambda g: terms(g).sum().reshape(shape), row_name=OF_ALL)


def _zero_vectors(sheet: Worksheet) -> None:
    counted = sheet.counting()
    sides = [name for name in ("query", "key", "image_features", "text_features") if sheet.has(name)]
    zero = torch.stack([(sheet.wide(name) == 0).all(1) for name in sides]).any(0) & counted
    if zero.any():
        sheet.remark("zero_vector", n=int(zero.sum()), total=zero.numel(), where=sheet.place(sheet.first(zero)))


def _remarks(sheet: Worksheet, z: Tensor, own: Tensor, losses: Tensor) -> None:
    counted = sheet.counting()
    _zero_vectors(sheet)
    if not counted.any() or bool(losses[counted].isnan().any()):
        return
    partners = int((z[counted][0] > -math.inf).sum())
    if partners == 1:
        sheet.remark("single_pair")
        return
    rows = z[counted]
    mine = _own_entries(rows, own[counted])
    others = torch.where(own[counted], -math.inf, rows).amax(1)
    sheet.remark("found", n=int((mine > others).sum()), total=len(rows))
    baseline = math.log(partners)
    mean = float(losses[counted].mean())
    if math.isfinite(mean):
        sheet.remark("chance", partners=partners, baseline=baseline, compared=sheet.compared(mean, baseline))


LESSONS = {
    "clip_loss": clip_loss,
    "info_nce": info_nce,
    "siglip_loss": siglip_loss,
}
