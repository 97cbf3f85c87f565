"""The loss of a sequence of labels that is not aligned with its frames."""

import math

import torch
from torch import Tensor

from losskit.explanation.reduction import reduction_name
from losskit.explanation.table import Column
from losskit.explanation.worksheet import Losses, Slope, Worksheet, bracketed

_NEVER = -math.inf


def ctc_loss(sheet: Worksheet) -> Losses:
    log_p = sheet.wide("log_probs")
    unbatched = log_p.ndim == 2
    # (N, T, C)
    rows = (log_p.unsqueeze(1) if unbatched else log_p).transpose(0, 1)
    sheet.begin(log_p.shape[1:-1], "sample")
    counted = sheet.counting().reshape(-1)
    blank = int(sheet["blank"])
    frames, counts = (_lengths(sheet, name) * counted for name in ("input_lengths", "target_lengths"))
    labels = _labels(sheet, counts)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & _within(labels[:, 1:], counts - 1)).sum(1)
    inside = _within(rows[..., 0], frames)
    rows = torch.where(inside.unsqueeze(-1), rows, 0.0)
    extended = _extended(labels, counts, blank)
    states = _within(extended, 2 * counts + 1)
    forward = _forward(rows, extended, frames)
    log_likelihood = _at_the_end(forward, frames, counts)
    posterior = _posterior(rows, extended, states, frames, counts, forward, log_likelihood)

    def shaped(values: Tensor) -> Tensor:
        return values[0] if unbatched else values

    sheet.symbol("log p_t", "log_probability_of_frame")
    sheet.symbol("l", "labels")
    sheet.symbol("blank", "blank", blank)
    sheet.symbol("C", "classes", rows.shape[-1])
    sheet.symbol("T, S", "lengths")
    sheet.step(
        "labels",
        "T ≥ S + Σ_s [l_s = l_(s+1)]",
        Column("l", shaped(labels), "label", given=shaped(_within(labels, counts))),
        ("S", shaped(counts)),
        ("S + Σ", shaped(counts + repeats)),
        ("T", shaped(frames)),
    )
    named = torch.zeros(rows.shape, dtype=torch.bool)
    named |= ((extended.unsqueeze(-1) == torch.arange(rows.shape[-1])) & states.unsqueeze(-1)).any(1).unsqueeze(1)
    sheet.importance["class"], sheet.targets["class"] = shaped(rows), shaped(named)
    sheet.step(
        "frames",
        "log p_t(c)",
        Column("log p", shaped(rows), "class", shaped(named), shaped(inside)),
        row_name="sample_frame",
    )
    sheet.step(
        "extended",
        "l′ = (blank, l_1, blank, l_2, …, blank)",
        Column("l′", shaped(extended), "state", given=shaped(states)),
    )
    sheet.step(
        "forward",
        "α_t(s) = p_t(l′_s) · (α_(t−1)(s) + α_(t−1)(s−1) + [l′_s ≠ blank, l′_s ≠ l′_(s−2)] · α_(t−1)(s−2))",
        Column("log α", shaped(forward), "state", given=shaped(inside.unsqueeze(-1) & states.unsqueeze(1))),
        row_name="sample_frame",
    )
    values = -log_likelihood
    sheet.step(
        "likelihood",
        "ℓ = −log(α_T(2·S) + α_T(2·S − 1))",
        ("p", shaped(log_likelihood.exp())),
        ("log p", shaped(log_likelihood)),
        ("ℓ", shaped(values)),
    )
    _ctc_remarks(sheet, rows, inside, values, counts, repeats, frames)
    slope = torch.where(inside.unsqueeze(-1), rows.exp() - posterior, 0.0)
    impossible = values == math.inf
    if sheet["zero_infinity"]:
        values = torch.where(impossible, 0.0, values)
        slope = torch.where(impossible[:, None, None], 0.0, slope)
        sheet.step("zero_infinity", "ℓ ← [ℓ < ∞] · ℓ", ("ℓ", shaped(values)))
    formula = "exp(log p_t(c)) − γ_t(c)"
    sheet.symbol("γ_t(c)", "posterior")
    if reduction_name(sheet) == "mean":
        number = counts.clamp(min=1)
        sheet.step(
            "per_label",
            "ℓ ← ℓ / max(S, 1)",
            ("ℓ", shaped(values)),
            ("max(S, 1)", shaped(number)),
            ("ℓ′", shaped(values / number)),
        )
        values, slope = values / number, slope / number[:, None, None]
        formula = f"{bracketed(formula)} / max(S, 1)"
    return Losses(
        shaped(values),
        {
            "log_probs": Slope(
                "(log p_t(c))",
                formula,
                shaped(slope),
                lambda g: g if unbatched else g.transpose(0, 1),
                lambda g: g if unbatched else g.transpose(0, 1),
                axis="class",
                row_name="sample_frame",
            )
        },
    )


def _lengths(sheet: Worksheet, name: str) -> Tensor:
    lengths = sheet[name]
    return lengths.cpu().long().reshape(-1) if isinstance(lengths, Tensor) else torch.tensor(lengths)


def _labels(sheet: Worksheet, counts: Tensor) -> Tensor:
    """(N, S), with 0 behind the labels of a sample."""
    targets, given = sheet.indices("targets"), _lengths(sheet, "target_lengths").tolist()
    labels = torch.zeros(len(counts), int(counts.max()) if len(counts) else 0, dtype=torch.int64)
    starts = [sum(given[:n]) for n in range(len(given))]
    for n, (count, start) in enumerate(zip(counts.tolist(), starts, strict=True)):
        row = targets[n] if targets.ndim == 2 else targets[start:]
        labels[n, :count] = row[:count]
    return labels


def _within(like: Tensor, lengths: Tensor) -> Tensor:
    """(N, …): True in the first so many places of each row."""
    return torch.arange(like.shape[1]) < lengths.unsqueeze(1)


def _extended(labels: Tensor, counts: Tensor, blank: int) -> Tensor:
    """The labels between blanks, l′ of the paper; blanks behind them too."""
    extended = torch.full((labels.shape[0], 2 * labels.shape[1] + 1), blank)
    extended[:, 1::2] = torch.where(_within(labels, counts), labels, blank)
    return extended


def _skips(extended: Tensor, blank: Tensor) -> Tensor:
    """Whether a state is reached from the one two before: from a label to one that differs."""
    skips = torch.zeros(extended.shape, dtype=torch.bool)
    skips[:, 2:] = (extended[:, 2:] != blank) & (extended[:, 2:] != extended[:, :-2])
    return skips


def _forward(rows: Tensor, extended: Tensor, frames: Tensor) -> Tensor:
    """log α of each frame and state, (N, T, states): equations 6 and 7 of Graves et al. 2006."""
    emitted = rows.gather(2, extended.unsqueeze(1).expand(-1, rows.shape[1], -1))
    skips = _skips(extended, extended[:, :1])
    alpha = torch.full(extended.shape, _NEVER, dtype=torch.float64)
    # Before the first frame all is at the first blank.
    alpha[:, 0] = 0
    seen = []
    for frame in range(rows.shape[1]):
        one = torch.nn.functional.pad(alpha[:, :-1], (1, 0), value=_NEVER)
        two = torch.nn.functional.pad(alpha[:, :-2], (2, 0), value=_NEVER)[:, : alpha.shape[1]]
        step = torch.stack([alpha, one, two.masked_fill(~skips, _NEVER)]).logsumexp(0) + emitted[:, frame]
        # Past its last frame a sample waits.
        alpha = torch.where((frame < frames).unsqueeze(1), step, alpha)
        seen.append(alpha)
    return torch.stack(seen, 1)


def _at_the_end(forward: Tensor, frames: Tensor, counts: Tensor) -> Tensor:
    """Equation 8: the end is the last label or the blank behind it. Without a frame there is nothing but no label."""
    last = forward[:, -1]
    state = torch.arange(last.shape[1])
    end = 2 * counts.unsqueeze(1)
    return last.masked_fill((state != end) & (state != end - 1), _NEVER).logsumexp(1)


def _posterior(
    rows: Tensor,
    extended: Tensor,
    states: Tensor,
    frames: Tensor,
    counts: Tensor,
    forward: Tensor,
    log_likelihood: Tensor,
) -> Tensor:
    """The probability that a frame is that class, given the labels: α·β over the likelihood, (N, T, C)."""
    emitted = rows.gather(2, extended.unsqueeze(1).expand(-1, rows.shape[1], -1))
    skips = _skips(extended, extended[:, :1])
    state, end = torch.arange(extended.shape[1]), 2 * counts.unsqueeze(1)
    ends = torch.zeros(extended.shape, dtype=torch.float64).masked_fill((state != end) & (state != end - 1), _NEVER)
    beta, posterior = ends, torch.zeros(rows.shape, dtype=torch.float64)
    for frame in reversed(range(rows.shape[1])):
        # What comes behind this frame; in the last one of a sample, that it ends in the right state.
        gamma = (forward[:, frame] + beta - log_likelihood.unsqueeze(1)).exp().masked_fill(~states, 0)
        posterior[:, frame] = posterior[:, frame].scatter_add(1, extended, gamma)
        ahead = beta + emitted[:, frame]
        one = torch.nn.functional.pad(ahead[:, 1:], (0, 1), value=_NEVER)
        two = torch.nn.functional.pad(ahead.masked_fill(~skips, _NEVER)[:, 2:], (0, 2), value=_NEVER)
        step = torch.stack([ahead, one, two[:, : ahead.shape[1]]]).logsumexp(0)
        beta = torch.where((frame < frames).unsqueeze(1), step, beta)
    # Of labels that cannot be, 0/0.
    return posterior.masked_fill((log_likelihood == _NEVER)[:, None, None], math.nan)


def _ctc_remarks(
    sheet: Worksheet, rows: Tensor, inside: Tensor, values: Tensor, counts: Tensor, repeats: Tensor, frames: Tensor
) -> None:
    counted = sheet.counting().reshape(-1)
    needed = counts + repeats
    short = counted & (needed > frames)
    for n in short.nonzero().flatten().tolist()[:5]:
        sheet.remark(
            "infeasible",
            where=sheet.place((n,) if sheet.shape else ()),
            needed=int(needed[n]),
            labels=int(counts[n]),
            repeats=int(repeats[n]),
            frames=int(frames[n]),
        )
    impossible = int((counted & (values == math.inf)).sum())
    if impossible:
        sheet.remark("zeroed" if sheet["zero_infinity"] else "impossible", n=impossible, total=len(values))
    finite = counted & values.isfinite()
    if finite.any():
        mean = float(values[finite].mean())
        # Below 0 where the rows are no log-probabilities; then exp(−mean) is no probability.
        if mean >= 0:
            sheet.remark("sequence_probability", mean=mean, p=math.exp(-mean))
    if reduction_name(sheet) == "mean" and bool((counts[counted] > 1).any()):
        sheet.remark("per_label")
    sums = rows.logsumexp(-1)[inside & counted.unsqueeze(1)]
    if bool((sums.abs() > 1e-3).any()):
        sheet.remark("frames_not_normalised", sum=float(sums[sums.abs().argmax()].exp()))


LESSONS = {"ctc_loss": ctc_loss}
