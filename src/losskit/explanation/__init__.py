"""`losskit.explain`: how a loss comes about, number by number."""

from losskit.explanation.explain import explain
from losskit.explanation.explanation import Explanation, Gradient, Step
from losskit.explanation.table import Column, Table
from losskit.explanation.worksheet import Remark, Symbol

__all__ = ["Column", "Explanation", "Gradient", "Remark", "Step", "Symbol", "Table", "explain"]
