"""What an explanation shows, in which order: blocks that every renderer turns into its own form."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from losskit.explanation.language import Messages
from losskit.explanation.table import Grid

if TYPE_CHECKING:
    from losskit.explanation.explanation import Explanation


@dataclass(frozen=True)
class Heading:
    """The title, of level 1, or that of a part."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Formula:
    """Mathematics, as text and for LaTeX."""

    text: str
    latex: str


@dataclass(frozen=True)
class Paragraph:
    """A sentence or more."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """Names and what they stand for. `code` says that the names are those of arguments, and not letters."""

    rows: tuple[tuple[str, str], ...]
    code: bool


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


Block = Heading | Formula | Paragraph | Pairs | Items | Grid


def outline(explanation: "Explanation") -> list[Block]:
    """The blocks, from the top."""
    say, loss = explanation.say, explanation.loss
    blocks: list[Block] = [
        Heading(f"{loss.name} · {loss.module} · {say(f'task.{loss.task}')}", 1),
        Pairs(_arguments(explanation, say), code=True),
        Heading(say("part.formula")),
        Formula(explanation.formula, explanation.latex),
        Pairs(tuple((symbol_text(symbol, say), symbol.meaning) for symbol in explanation.symbols), code=False),
    ]
    blocks += [Paragraph(note) for note in explanation.notes]
    for number, step in enumerate(explanation.steps, 1):
        blocks += [Heading(f"{number}. {step.title}"), Formula(step.formula, step.latex), Paragraph(step.about)]
        blocks.append(step.table.grid(say))
    blocks += [Heading(say("part.result")), Paragraph(_result(explanation, say))]
    for gradient in explanation.gradients.values():
        blocks += [Heading(say("part.gradient", name=gradient.name)), Formula(gradient.formula, gradient.latex)]
        blocks.append(gradient.table.grid(say))
    if explanation.remarks:
        blocks += [Heading(say("part.remarks")), Items(tuple(remark.text for remark in explanation.remarks))]
    return blocks


def symbol_text(symbol: Any, say: Messages) -> str:
    """A letter, with its value where it has one."""
    return symbol.symbol if symbol.value is None else f"{symbol.symbol} = {say.shown(symbol.value)}"


def described(value: Any, say: Messages) -> str:
    """An argument in a few words: what a tensor holds is in the tables."""
    if isinstance(value, Tensor):
        if value.ndim <= 1 and 0 < value.numel() <= 8:
            shown = say.shown(value)
            return f"[{shown}]" if value.ndim else shown
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if callable(value) and not isinstance(value, torch.nn.Module):
        return getattr(value, "__name__", type(value).__name__)
    return say.shown(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _arguments(explanation: "Explanation", say: Messages) -> tuple[tuple[str, str], ...]:
    rows = []
    for name, value in explanation.data.items():
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            rows.append((name, f"{tuple(value.shape)} {dtype}"))
        else:
            rows.append((name, described(value, say)))
    rows += [(name, described(value, say)) for name, value in explanation.options.items()]
    if "reduction" not in explanation.options:
        rows.append(("reduction", "mean"))
    return tuple(rows)


def _result(explanation: "Explanation", say: Messages) -> str:
    result = explanation.result
    unit = say(f"unit.{explanation.loss.unit}")
    dtype = str(result.dtype).removeprefix("torch.")
    if result.ndim == 0:
        return say("result.one", value=result, unit=unit, dtype=dtype, steps=explanation.value)
    return say("result.many", shape=str(tuple(result.shape)), unit=unit, dtype=dtype)
