"""What `explain` returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from losskit.catalog import LossInfo
from losskit.errors import LosskitValueError
from losskit.explanation.language import Messages
from losskit.explanation.latex import formula as latex_of
from losskit.explanation.render import html, json, latex, markdown, terminal, text
from losskit.explanation.table import Table
from losskit.explanation.worksheet import Remark, Symbol


@dataclass(frozen=True, eq=False)
class Step:
    """One step from the input to the loss: a formula, and its values for each row."""

    # The same in every language.
    key: str
    title: str
    # What it does, and why.
    about: str
    formula: str
    table: Table

    @property
    def latex(self) -> str:
        """The formula for LaTeX's mathematics."""
        return latex_of(self.formula)

    @property
    def value(self) -> Tensor:
        """The whole tensor of the last column, which is what the step is for."""
        return self.table.columns[-1].values


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of the result by one tensor; of the sum of the losses where nothing was reduced."""

    name: str
    formula: str
    # By autograd of the call, in the shape of the tensor.
    values: Tensor
    # By the formula, in float64.
    by_formula: Tensor
    table: Table

    @property
    def latex(self) -> str:
        """The formula for LaTeX's mathematics."""
        return latex_of(self.formula)


@dataclass(frozen=True, eq=False)
class Explanation:
    """How a loss comes about, step by step, and what matters for this input.

    `print` shows it as text; it is a table in a notebook and in rich.

    **Example**:

    >>> import losskit
    >>> explanation = losskit.explain("mse_loss", [1, 2, 3], [1, 2, 5], lang="en")
    >>> explanation
    <Explanation of mse_loss: 1.3333>
    >>> [step.key for step in explanation.steps]
    ['difference', 'square', 'mean']
    >>> explanation.step("square").value
    tensor([0., 0., 4.], dtype=torch.float64)
    """

    loss: LossInfo
    # The tensors of the call, and the options that differ from their defaults.
    data: Mapping[str, Any]
    options: Mapping[str, Any]
    formula: str
    latex: str
    symbols: tuple[Symbol, ...]
    steps: tuple[Step, ...]
    # What the call returned.
    result: Tensor
    gradients: Mapping[str, Gradient]
    remarks: tuple[Remark, ...]
    # What is left out of the tables.
    notes: tuple[str, ...]
    lang: str
    digits: int

    @property
    def value(self) -> Tensor:
        """What the steps come to, in float64: the result to rounding."""
        return self.steps[-1].value

    @property
    def say(self) -> Messages:
        """The words of its language."""
        return Messages(self.lang, self.digits)

    def step(self, key: str) -> Step:
        """The step with this key.

        **Raises**: ValueError where there is none.
        """
        for step in self.steps:
            if step.key == key:
                return step
        known = ", ".join(step.key for step in self.steps)
        raise LosskitValueError(f"explain: {self.loss.name} has no step {key!r} here; its steps are {known}.")

    def __str__(self) -> str:
        return text.render(self)

    def __repr__(self) -> str:
        shown = self.say.shown(self.result) if self.result.numel() <= 8 else f"{self.result.numel()} losses"
        return f"<Explanation of {self.loss.name}: {shown}>"

    def to_rich(self, width: int = 100) -> Any:
        """For rich's console: headings, formulas and tables.

        **Raises**: ImportError without rich.
        """
        return terminal.render(self, width)

    def __rich__(self) -> Any:
        return self.to_rich()

    def _repr_html_(self) -> str:
        return html.render(self)

    def to_html(self) -> str:
        """A page of its own."""
        return html.page(self)

    def to_markdown(self) -> str:
        """For GitHub, or a notebook."""
        return markdown.render(self)

    def to_latex(self) -> str:
        """A fragment for a document that uses amsmath; in Chinese one that can print it, as ctex can."""
        return latex.render(self)

    def to_dict(self) -> dict[str, Any]:
        """What is shown, with every digit."""
        return json.as_dict(self)

    def to_json(self) -> str:
        """The same as JSON. What is not finite is the string NaN, Infinity or -Infinity."""
        return json.render(self)
