"""The report: findings in words, as JSON, and what was not checked."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from losskit.diagnosis.finding import SEVERITIES, Finding

__all__ = ["Report"]

WIDTH = 110


@dataclass(frozen=True)
class Report:
    """What was found, the worst first, and in `notes` what could not be checked.

    `error` is the exception of a call that raised one. `str()` of it is the text, `.to_json()` the same for programs.

    **Example**:

    >>> import torch, losskit
    >>> report = losskit.diagnose(torch.nn.MSELoss(), torch.zeros(3, requires_grad=True), torch.zeros(3))
    >>> report.has_errors, len(report.findings), str(report)
    (False, 0, 'no fault found')
    """

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    error: BaseException | None = None

    @classmethod
    def of(cls, findings: Sequence[Finding], notes: Sequence[str] = (), error: BaseException | None = None) -> "Report":
        """With the findings in order: by severity, then as they were found."""
        return cls(tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))), tuple(notes), error)

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(finding.code for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "findings": [finding.as_dict() for finding in self.findings],
            "not_checked": list(self.notes),
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
        }

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2)

    def __str__(self) -> str:
        parts = ["\n".join(_lines(finding)) for finding in self.findings]
        rest = []
        if not parts and self.error is None:
            rest.append("no fault found")
        if self.error is not None:
            rest.append(f"the call raised {type(self.error).__name__}: {self.error}")
        rest += [_wrapped("not checked: ", note) for note in self.notes]
        return "\n\n".join([*parts, *(["\n".join(rest)] if rest else [])])

    def __repr__(self) -> str:
        return f"<Report: {self.summary()}>"

    def summary(self) -> str:
        """How much was found.

        **Example**:

        >>> Report().summary()
        'no fault found'
        """
        if not self.findings:
            return "no fault found"
        counts = [(severity, sum(each.severity == severity for each in self.findings)) for severity in SEVERITIES]
        names = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "info": ("note", "notes")}
        return ", ".join(f"{count} {names[severity][count > 1]}" for severity, count in counts if count)


def _lines(finding: Finding) -> list[str]:
    return [
        f"{finding.severity}: {finding.code} in {finding.place}",
        _wrapped("  seen  ", finding.seen),
        _wrapped("  why   ", finding.why),
        # Code stays on its line.
        f"  fix   {finding.fix}",
        f"  more  {finding.page}",
    ]


def _wrapped(head: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
