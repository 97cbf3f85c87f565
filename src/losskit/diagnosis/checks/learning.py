"""Check 12: whether anything is learned."""

from collections.abc import Iterator

from losskit.diagnosis.call import Call
from losskit.diagnosis.check import Check
from losskit.diagnosis.checks.baselines import FIRST_LOSS, PLATEAU, baselines, observe
from losskit.diagnosis.checks.liveness import NO_GRADIENT, NOT_A_SCALAR, ZERO_GRADIENT, liveness
from losskit.diagnosis.finding import Finding
from losskit.diagnosis.history import History
from losskit.replace import FUNCTIONS

__all__ = ["CHECK"]


def after(call: Call, history: History) -> Iterator[Finding]:
    yield from liveness(call, history)
    observe(call, history)
    yield from baselines(call, history)


CHECK = Check(
    number=12,
    what="whether anything is learned",
    functions=FUNCTIONS,
    kinds=(NO_GRADIENT, NOT_A_SCALAR, ZERO_GRADIENT, FIRST_LOSS, PLATEAU),
    after=after,
)
