"""A finding: what was seen in a call of a loss, why it matters, and what to write instead."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

__all__ = ["SEVERITIES", "SYMPTOMS", "Finding", "Kind", "Place", "figure"]

Severity = Literal["error", "warning", "info"]
# From the worst down. error: the number or its gradient is wrong. warning: it probably is. info: good to know.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
# Codes of what follows from a fault that has another code, where one was found.
SYMPTOMS = ("first-loss", "plateau")


class Place(NamedTuple):
    """A call of a loss in somebody's code. It holds no tensor, so that a hook of the graph may keep it."""

    function: str
    # The first frame outside torch and losskit, where there is one.
    file: str | None
    line: int | None

    def __str__(self) -> str:
        return f"{self.function}, {self.file}:{self.line}" if self.file else self.function


@dataclass(frozen=True)
class Finding:
    """One fault in the use of a loss.

    `code` names it and `check` is the number of the check that found it. `severity` is `"error"` where the loss or its
    gradient is wrong, `"warning"` where it probably is, `"info"` where nothing has to change. `seen` tells the figures,
    `why` what they do to a training, `fix` is a line of code, `page` the page of the docs. `function` is the loss,
    `file` and `line` the place where it was called.

    **Example**:

    >>> import torch, losskit
    >>> report = losskit.diagnose(losskit.BCEWithLogitsLoss(), torch.zeros(2), torch.tensor([0.0, 255.0]))
    >>> finding = report.findings[0]
    >>> finding.code, finding.check, finding.severity, finding.fix
    ('target-out-of-range', 4, 'error', 'binary_cross_entropy_with_logits(input, target / 255)')
    """

    code: str
    check: int
    severity: Severity
    function: str
    seen: str
    why: str
    fix: str
    page: str
    file: str | None = None
    line: int | None = None

    @property
    def place(self) -> Place:
        return Place(self.function, self.file, self.line)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """All of it but the place, in one line."""
        return f"{self.code} in {self.function}: {self.seen} {self.why} Fix: {self.fix} ({self.page})"


@dataclass(frozen=True)
class Kind:
    """What a check can find. Every kind has a page in the docs."""

    code: str
    check: int
    # One line for a list of all kinds.
    title: str

    @property
    def page(self) -> str:
        return f"docs/findings/{self.code}.md"

    def found(self, place: Place, severity: Severity, *, seen: str, why: str, fix: str) -> Finding:
        return Finding(
            self.code, self.check, severity, place.function, seen, why, fix, self.page, place.file, place.line
        )


def figure(value: float) -> str:
    """A number in a sentence: four digits.

    **Example**:

    >>> figure(1.46115017), figure(-761.94), figure(3.0), figure(2.5e-7)
    ('1.461', '-761.9', '3', '2.5e-07')
    """
    return f"{value:.4g}"
