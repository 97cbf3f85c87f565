"""The form of a check: what it looks at, and what it can find."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from losskit.diagnosis.call import Call
from losskit.diagnosis.finding import Finding, Kind
from losskit.diagnosis.history import History

__all__ = ["Check"]

Run = Callable[[Call, History], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """One of the twelve.

    `before` looks at the arguments, `after` at the loss too, `conclude` at all calls when no more will come.
    """

    number: int
    what: str
    # The functions whose calls it looks at.
    functions: tuple[str, ...]
    kinds: tuple[Kind, ...]
    before: Run | None = None
    after: Run | None = None
    conclude: Callable[[History], Iterator[Finding]] | None = None
