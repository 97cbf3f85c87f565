"""How each loss is computed, step by step: a function per loss, a file per family."""

from collections.abc import Callable, Mapping

from losskit.explanation.families import contrastive, ctc, distribution, embedding, margin, pointwise, softmax
from losskit.explanation.worksheet import Losses, Worksheet

# By the name of the function.
LESSONS: Mapping[str, Callable[[Worksheet], Losses]] = {
    **contrastive.LESSONS,
    **ctc.LESSONS,
    **distribution.LESSONS,
    **embedding.LESSONS,
    **margin.LESSONS,
    **pointwise.LESSONS,
    **softmax.LESSONS,
}
