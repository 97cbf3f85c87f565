"""Language models of Hugging Face transformers that compute their loss without their logits.

A language model multiplies its last hidden states by its head, does little with these logits and hands them to cross
entropy. `patch.py` puts a forward of its own before that of one model; while it runs, `head.py` lets the head return
`deferred.py`'s object in the place of the logits: it remembers what is done with it, and computes the loss by
`linear_cross_entropy` when it gets to cross entropy. The model's own code runs as it is, and so do the losses that it
adds. Nothing here imports transformers.
"""

from losskit.causal_lm.patch import Unpatched, patch_causal_lm, unpatch_causal_lm

__all__ = ["Unpatched", "patch_causal_lm", "unpatch_causal_lm"]
