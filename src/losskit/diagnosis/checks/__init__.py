"""The checks, in their order: causes before symptoms."""

from losskit.diagnosis.check import Check
from losskit.diagnosis.checks import (
    activation,
    broadcasting,
    class_axis,
    ctc,
    distribution,
    finite,
    label_shift,
    learning,
    log_probabilities,
    normalisation,
    precision,
    targets,
)
from losskit.diagnosis.finding import Kind

__all__ = ["CHECKS", "KINDS"]

CHECKS: tuple[Check, ...] = (
    activation.CHECK,
    log_probabilities.CHECK,
    distribution.CHECK,
    targets.CHECK,
    broadcasting.CHECK,
    class_axis.CHECK,
    label_shift.CHECK,
    normalisation.CHECK,
    finite.CHECK,
    ctc.CHECK,
    precision.CHECK,
    learning.CHECK,
)
# Everything that can be found.
KINDS: tuple[Kind, ...] = tuple(kind for check in CHECKS for kind in check.kinds)
