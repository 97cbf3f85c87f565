"""What is remembered of the calls of one criterion, or of one place of a program."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from losskit.diagnosis.finding import SEVERITIES, SYMPTOMS, Finding, Place
from losskit.diagnosis.steps import steps

__all__ = ["FIRST_CALLS", "LATE_CALLS", "History", "Observation"]

# Calls that are checked before the rest is sampled.
FIRST_CALLS = 3
# Later ones that are compared with each other.
LATE_CALLS = 3
MOST_NOTES = 20


@dataclass(frozen=True)
class Observation:
    """A training call, for the checks that compare several."""

    number: int
    loss: float
    # Of the classes in the target, where it holds class indices.
    frequencies: Tensor | None
    # Number, sum and sum of squares of a target of real numbers.
    moments: tuple[int, float, float] | None


@dataclass
class History:
    """State of the checks. `single` is a call on its own: of the training around it nothing is known."""

    single: bool = False
    report: Callable[[Finding], None] = lambda _: None
    # All calls, those that autograd recorded, and those of them that were checked.
    calls: int = 0
    training_calls: int = 0
    checked: int = 0
    # Of the call that was checked last.
    place: Place | None = None
    # Steps of optimizers before the first training call.
    first_steps: int = 0
    # Of the checked training calls: the first, the last three beyond the first calls, and how many losses counted.
    first: Observation | None = None
    late: "deque[Observation]" = field(default_factory=lambda: deque(maxlen=LATE_CALLS))
    least_counted: int | None = None
    most_counted: int = 0
    ignores: bool = False
    # Of the last calls that were checked: the loss as it is declared, and with other axes as classes.
    layouts: "deque[dict[str, float]]" = field(default_factory=lambda: deque(maxlen=FIRST_CALLS))
    # Whether the input of each of the first calls had a gradient.
    live: list[bool] = field(default_factory=list)
    found: dict[str, Finding] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def count(self, every: int) -> bool:
        """Note a call; returns whether to check it: the first three that train, the first three that do not, and then
        every `every`-th."""
        with self.lock:
            self.calls += 1
            if torch.is_grad_enabled():
                self.training_calls += 1
                if self.training_calls == 1:
                    self.first_steps = steps()
                alike = self.training_calls
            else:
                alike = self.calls - self.training_calls
            return alike <= FIRST_CALLS or self.calls % every == 0

    def take_counts(self, other: "History") -> None:
        with self.lock:
            self.calls, self.training_calls, self.first_steps = other.calls, other.training_calls, other.first_steps

    def add(self, finding: Finding) -> None:
        """Once for each code; a worse severity replaces a milder one."""
        with self.lock:
            before = self.found.get(finding.code)
            if before is not None and not _worse(finding, before):
                return
            self.found[finding.code] = finding
        self.report(finding)

    def note(self, text: str) -> None:
        """Something that was not checked."""
        with self.lock:
            if len(self.notes) < MOST_NOTES:
                self.notes[text] = None

    @property
    def has_causes(self) -> bool:
        """Whether something was found that would explain a loss that is off."""
        return any(each.severity != "info" and each.code not in SYMPTOMS for each in self.found.values())

    def findings(self) -> list[Finding]:
        """What was found, without symptoms whose cause was."""
        with self.lock:
            found = list(self.found.values())
            return [each for each in found if each.code not in SYMPTOMS] if self.has_causes else found


def _worse(finding: Finding, before: Finding) -> bool:
    return SEVERITIES.index(finding.severity) < SEVERITIES.index(before.severity)
