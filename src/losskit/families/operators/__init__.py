"""The kernels as operators of torch, `torch.ops.losskit`: what `torch.compile` puts into its graph.

A. An operator is the eager call without its node: it takes the checked arguments, checks what depends on values when it
   runs, and raises the same errors.
B. It computes the gradient along with the loss where one is needed. It does not leave as a tensor: a graph may not
   write to a tensor that it has saved, so that multiplying it by grad_output would copy it, which costs as much as the
   loss. It stays with the owner of a second result, one byte, whose storage keeps the owner alive, and the backward
   operator takes it from there.
C. Where it is gone (a second backward pass, a byte that was copied) the backward operator computes it anew from the
   tensors that it is given. Its result is the same either way.
D. The backward operator has no derivative and says so.
"""

from torch.library import Library

from losskit.families.operators import class_loss, ctc, fused, linear_class_loss, pointwise
from losskit.families.operators.operator import register
from losskit.kernels import cpu


def _register() -> Library:
    library = Library("losskit", "DEF")
    # Without the kernels there is the loop over the rows, whose steps are plain torch operations.
    for family in (class_loss, pointwise, fused, ctc) if cpu.available() else ():
        register(library, family.OPERATOR)
    register(library, linear_class_loss.OPERATOR)
    return library


# Its end would take the operators away.
_library = _register()
