"""Where a loss writes down how it is computed: its arguments in float64, its steps, symbols and remarks."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from losskit.explanation.arguments import Request
from losskit.explanation.language import Messages
from losskit.explanation.latex import formula
from losskit.explanation.table import Column

# The name of the rows of a step that is about all losses together: it has one row, and no name for it.
OF_ALL = "all"
# A column, or its name and values.
Given = Column | tuple[str, Tensor]


@dataclass(frozen=True, eq=False)
class Draft:
    """A step whose rows to show are not chosen yet."""

    key: str
    title: str
    about: str
    formula: str
    columns: tuple[Column, ...]
    row_name: str


@dataclass(frozen=True)
class Symbol:
    """A letter of the formulas, what it stands for, and its value where it has a single one."""

    symbol: str
    meaning: str
    value: float | None = None

    @property
    def latex(self) -> str:
        """The letter for LaTeX's mathematics."""
        return formula(self.symbol)


@dataclass(frozen=True)
class Remark:
    """Something that matters for this input, and the numbers that it was computed from."""

    key: str
    text: str
    values: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Slope:
    """The derivative of each loss by a tensor: a formula of it, and its values in the shape of the losses."""

    # "x_c" and "p_c − [c = t]".
    symbol: str
    formula: str
    # Of the losses' shape, or with more axes behind it.
    values: Tensor
    # What such a product with the losses' shares is in the layout of the tensor, up to a sum over what was expanded.
    to_tensor: Callable[[Tensor], Tensor] = lambda values: values
    # The tensor as rows of a table.
    to_rows: Callable[[Tensor], Tensor] = lambda values: values
    # What an entry of such a row counts, and what a row is where it is not a loss.
    axis: str = ""
    row_name: str = ""


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses before what every loss shares: weights of samples, mask and reduction."""

    values: Tensor
    slopes: dict[str, Slope]
    # What each adds to the divisor of the mean, and its symbol; None is 1.
    counts: Tensor | None = None
    counts_symbol: str = ""
    # Weights of the losses that the mean does not divide by.
    weight: Tensor | None = None


@dataclass(eq=False)
class Worksheet:
    """The working of one call, written by the function that knows the loss, read by the explanation."""

    request: Request
    say: Messages
    drafts: list[Draft] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    formula: str = ""
    latex: str = ""
    # Of the unreduced loss.
    shape: torch.Size = field(default_factory=torch.Size)
    row_name: str = "sample"
    # In `shape`: True where a loss counts.
    mask: Tensor | None = None
    counted: Tensor | None = None
    # For each kind of axis: how much an entry matters in a row, and the entry that must be seen.
    importance: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.formula, self.latex = self.request.loss.formula, self.request.loss.latex

    def __getitem__(self, option: str) -> Any:
        """An argument as the call gives it."""
        return self.request.arguments[option]

    def wide(self, name: str) -> Tensor:
        """A tensor as float64 on the CPU, or complex128."""
        tensor: Tensor = self.request.arguments[name].detach().cpu()
        return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)

    def indices(self, name: str) -> Tensor:
        """A tensor of class indices as int64 on the CPU."""
        tensor: Tensor = self.request.arguments[name].detach().cpu()
        return tensor.long()

    def has(self, name: str) -> bool:
        return self.request.arguments.get(name) is not None

    def begin(self, shape: torch.Size | tuple[int, ...], row_name: str) -> None:
        """The shape of the unreduced loss; with it the mask is known."""
        self.shape, self.row_name = torch.Size(shape), row_name
        if self.has("mask"):
            self.mask = self.request.arguments["mask"].detach().cpu().expand(self.shape)
            self.counted = self.mask

    def ignore(self, ignored: Tensor) -> None:
        """These do not count either."""
        self.counted = ~ignored if self.counted is None else self.counted & ~ignored

    def counting(self) -> Tensor:
        """True where a loss counts, in the shape of the losses."""
        return torch.ones(self.shape, dtype=torch.bool) if self.counted is None else self.counted

    def kept(self, values: Tensor) -> Tensor:
        """0 in the rows that do not count: whatever stands there must not spread."""
        if self.counted is None:
            return values
        counted = self.counted.reshape([*self.shape, *[1] * (values.ndim - len(self.shape))])
        return torch.where(counted, values, values.new_zeros(()))

    def raw(self, name: str, values: Tensor, axis: str = "", mark: Tensor | None = None) -> Column:
        """A column of what was given, also in the rows that do not count: True, for all of them."""
        return Column(name, values, axis, mark, torch.ones((), dtype=torch.bool))

    def symbol(self, symbol: str, key: str, value: float | None = None, **values: Any) -> None:
        self.symbols.append(Symbol(symbol, self.say(f"symbol.{key}", **values), value))

    def step(self, key: str, formula: str, *columns: Given, row_name: str = "", **values: Any) -> None:
        made = [column if isinstance(column, Column) else Column(*column) for column in columns]
        made = [column if column.given is not None else replace(column, given=self._given(column)) for column in made]
        self.drafts.append(
            Draft(
                key,
                self.say(f"step.{key}", **values),
                self.say(f"about.{key}", **values),
                formula,
                tuple(made),
                row_name or self.row_name,
            )
        )

    def remark(self, key: str, **values: Any) -> None:
        self.remarks.append(Remark(key, self.say(f"remark.{key}", **values), values))

    def place(self, index: tuple[int, ...]) -> str:
        """A row in a sentence: sample 3."""
        if not index:
            return self.say("row.only")
        return self.say(f"row.{self.row_name}_at", index=", ".join(map(str, index)))

    def compared(self, value: float, baseline: float) -> str:
        """How far a value is from another, in words."""
        key = "same" if abs(value - baseline) < 1e-9 else "below" if value < baseline else "above"
        return self.say(f"compared.{key}", difference=abs(value - baseline))

    def first(self, where: Tensor) -> tuple[int, ...]:
        """The first row for which this holds."""
        return tuple(where.nonzero()[0].tolist())

    def _given(self, column: Column) -> Tensor | None:
        if self.counted is None or column.values.shape[: len(self.shape)] != self.shape:
            return None
        return self.counted


def bracketed(text: str) -> str:
    """With brackets around it where it is a sum, so that it can be a factor."""
    outside = re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\]", "", text)
    return f"({text})" if re.search(r" [+−] |, ", outside) else text


def times(factor: Tensor, values: Tensor) -> Tensor:
    """The product, where 0·∞ is 0."""
    zero = (factor == 0) & values.isinf()
    return (factor * values).masked_fill(zero, 0)
