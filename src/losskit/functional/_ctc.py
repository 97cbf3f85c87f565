"""The loss of a sequence of labels whose places in a longer sequence of frames are not known."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from losskit.core import dispatch, inputs
from losskit.core.precision import autocast
from losskit.core.reduction import Options
from losskit.errors import LosskitTypeError
from losskit.families import ctc as ctc_family
from losskit.kernels import cpu
from losskit.losses import ctc as definitions

# A tensor, or numbers.
Lengths = Tensor | Sequence[int]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    *,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    on_empty: str = "nan",
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Connectionist temporal classification: −log of the probability of a label sequence, over all its alignments.

    **Equivalent to**: `-log(sum(exp(log_probs[range(T), path].sum()) for path in paths))`, where `paths` are all
    sequences of T classes that become the labels when repeats are merged and then blanks removed.

    **Args**: `log_probs`: log-probabilities of the classes of each frame, as log_softmax gives them, shape (T, N, C) or
    (T, C), floating point. `targets`: labels in [0, C), shape (N, S), padded with anything, or one sample after another
    in a tensor of one dimension. `input_lengths`, `target_lengths`: frames and labels of each sample, both as tensors
    of shape (N) or both as tuples of ints. `blank`: the class that stands for no label. `reduction`: `"none"`,
    `"mean"`, `"sum"`. `zero_infinity`: samples with an infinite loss count as 0, with a gradient of 0. The other
    keywords are described at the head of `losskit.functional`; a loss value is that of a sample.

    **Returns**: a 0-dim tensor, or one loss per sample, shape (N) or (), with `reduction="none"`; in nats. `mean`
    divides each loss by the number of its labels, at least 1, and then their sum by the number of samples.

    **Gradient**: by log_probs, as in torch: exp(log_probs) − the posterior probability of each class in each frame;
    exactly 0 in frames beyond input_lengths. It takes for granted that the log-probabilities of a frame are normalised:
    behind a log_softmax it is the gradient of the loss, and taken alone it differs from that by exp(log_probs). Second
    derivatives are those of this gradient.

    **Edge cases**: a sample whose labels do not fit its frames has an infinite loss and a NaN gradient
    (`zero_infinity=True`: both 0); `losskit.functional.explain_ctc` names them. A log-probability of −inf has gradient
    0. What is padding, in log_probs or in targets, is not looked at.

    **Raises**: ValueError for an unknown reduction, IndexError for a label outside [0, C), RuntimeError for shapes,
    dtypes or devices that do not go together and for lengths out of range, TypeError for other types.

    **Example**:

    >>> log_probs = torch.log_softmax(torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]), 1)
    >>> ctc_loss(log_probs, torch.tensor([1]), (2,), (1,))
    tensor(1.1019)
    """
    if (
        sample_weight is None
        and mask is None
        and normalizer is None
        and out_dtype is None
        and backend == "auto"
        and on_empty == "nan"
        and not is_compiling()
        and not dispatch.watchers
    ):
        result = cpu.lean_ctc(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
        if isinstance(result, list):
            return cpu.join_lean_ctc(
                result,
                log_probs,
                targets,
                input_lengths,
                target_lengths,
                blank,
                reduction,
                zero_infinity,
                ctc_loss,
            )
        if result is not None:
            return result
    name = "ctc_loss"
    inputs.check_tensor(name, "log_probs", log_probs)
    inputs.check_tensor(name, "targets", targets)
    inputs.check_common_options(name, reduction, on_empty, out_dtype, backend)
    inputs.check_ctc_tensors(name, log_probs, targets, blank, zero_infinity)
    inputs.check_devices(name, log_probs=log_probs, targets=targets)
    if isinstance(input_lengths, Tensor) != isinstance(target_lengths, Tensor):
        raise LosskitTypeError(
            f"{name}: input_lengths and target_lengths must be two tensors or two tuples of ints, got "
            f"{type(input_lengths).__name__} and {type(target_lengths).__name__}."
        )
    batch = log_probs.shape[1] if log_probs.ndim == 3 else 1
    frames = inputs.ctc_lengths(name, "input_lengths", input_lengths, batch, log_probs)
    labels = inputs.ctc_lengths(name, "target_lengths", target_lengths, batch, log_probs)
    (log_probs,) = autocast(log_probs)
    return ctc_family.ctc_loss(
        name,
        log_probs,
        targets,
        frames,
        labels,
        blank,
        zero_infinity,
        Options(reduction, sample_weight, mask, normalizer, on_empty, out_dtype, backend),
    )


# Not a warning of ctc_loss: torch says nothing, zero_infinity=True is there for data that has such samples, and on
# other devices the question would wait for the device at each call.
def explain_ctc(targets: Tensor, input_lengths: Lengths, target_lengths: Lengths) -> list[str]:
    """Why a `ctc_loss` is infinite: a sentence for each sample whose labels do not fit its frames.

    A label needs a frame, and one that repeats the label before it needs a blank between the two.

    **Args**: as those of `ctc_loss`.

    **Returns**: the sentences, in the order of the samples; none where every sample fits.

    **Raises**: RuntimeError for lengths that do not fit targets.

    **Example**:

    >>> explain_ctc(torch.tensor([[1, 2, 2, 2]]), (5,), (4,))
    ['ctc_loss: sample 0 needs 6 frames (4 labels + 2 repeats) but input_lengths[0] is 5: its loss is inf.']
    """
    name = "explain_ctc"
    inputs.check_tensor(name, "targets", targets)
    batch = len(target_lengths) if not isinstance(target_lengths, Tensor) else target_lengths.numel()
    frames = inputs.ctc_lengths(name, "input_lengths", input_lengths, batch, targets)
    counts = inputs.ctc_lengths(name, "target_lengths", target_lengths, batch, targets)
    inputs.check_ctc_lengths(name, int(frames.max()) if batch else 0, targets, frames, counts)
    longest = int(counts.max()) if batch else 0
    labels, repeats = definitions.frames_needed(definitions.padded_labels(targets, counts, longest, 0), counts)
    return [
        f"ctc_loss: sample {n} needs {_counted(own + again, 'frame')} ({_counted(own, 'label')} + "
        f"{_counted(again, 'repeat')}) but input_lengths[{n}] is "
        f"{given}: its loss is inf."
        for n, (own, again, given) in enumerate(zip(labels.tolist(), repeats.tolist(), frames.tolist(), strict=True))
        if own + again > given
    ]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
