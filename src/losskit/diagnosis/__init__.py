"""Faults in the use of a loss that raise no error, found in one call, in a training, or in a script."""

from losskit.diagnosis.finding import Finding
from losskit.diagnosis.one_call import diagnose
from losskit.diagnosis.report import Report
from losskit.diagnosis.watching import Watch, watch

__all__ = ["Finding", "Report", "Watch", "diagnose", "watch"]
