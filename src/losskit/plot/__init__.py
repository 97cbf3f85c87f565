"""Pictures of losses, drawn with matplotlib: each function returns the Axes it drew into, and takes `ax`.

Lines differ by style and mark, bars by hatching, so that no picture needs its colours to be read.
"""

from losskit.plot.breakdown import classes, samples
from losskit.plot.curves import compare, curve
from losskit.plot.questions import QUESTIONS, question
from losskit.plot.runs import history
from losskit.plot.saving import save
from losskit.plot.surface import landscape

__all__ = ["QUESTIONS", "classes", "compare", "curve", "history", "landscape", "question", "samples", "save"]
