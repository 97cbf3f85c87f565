"""The gate: no time is reported for a wrong value or gradient.

A. The truth is torch's own function on the same numbers in float64, forward and backward, for two upstream
   gradients.
B. An error is the largest difference divided by the largest magnitude of the truth, for the value, and for each
   part of each gradient by itself: the target column of a cross entropy is thousands of times larger than the other
   columns and would hide them.
C. Allowed to losskit: twice the error of eager PyTorch in the same dtype, plus a few units in the last place. There
   is no absolute tolerance. Other peers only have to compute the same thing, so their margin is wider; eager is the
   yardstick, and only has to be sane.
D. Between the two runs every output is filled with NaN and released, so that a buffer which is used again
   (losskit's pool, malloc's free lists) hands NaN to whatever the second run leaves unwritten.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.peers import OURS, Peer, make_loss_peer
from benchmarks.workloads import Problem

FACTOR, ULPS = 2.0, 4.0
FACTOR_OF_OTHERS, ULPS_OF_OTHERS = 16.0, 64.0
# Elements that are converted to float64 at once.
CHUNK = 2**22


@dataclass
class Verdict:
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error against float64 of the run that is timed, by part: "value", "logits target column", ..."""
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outputs:
    value: Tensor
    gradients: Mapping[str, Tensor]


def in_float64(value: object) -> object:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def truth(problem: Problem) -> Peer:
    """Eager torch on the same numbers in float64."""
    exact = Problem(
        inputs={name: value.double() for name, value in problem.inputs.items()},
        constants=tuple(value.double() if value.is_floating_point() else value for value in problem.constants),
        eager=problem.eager,
        losskit=problem.losskit,
        options={name: in_float64(value) for name, value in problem.options.items()},
        produce=problem.produce,
        needs_grad=problem.needs_grad,
    )
    return make_loss_peer(exact, "float64", exact.eager, {})


def run(peer: Peer, grad_output: Tensor | None, *, as_timed: bool) -> Outputs:
    """One call. `as_timed` runs the very callable that is timed, whose grad_output is built in."""
    if peer.forward is None:
        raise ValueError(f"{peer.name}: a limit computes no loss and cannot be checked.")
    if peer.restore is not None:
        peer.restore()
    if as_timed:
        loss = peer.step()
        if loss is None:
            raise ValueError(f"{peer.name}: the step returned no loss.")
    else:
        for leaf in peer.leaves.values():
            leaf.grad = None
        loss = peer.forward()
        if peer.leaves:
            loss.backward(None if grad_output is None else grad_output.to(loss.dtype))
    return Outputs(loss.detach(), {name: leaf.grad for name, leaf in peer.leaves.items() if leaf.grad is not None})


def poison_and_release(peer: Peer, outputs: Outputs) -> None:
    for tensor in (outputs.value, *outputs.gradients.values()):
        tensor.fill_(math.nan)
    for leaf in peer.leaves.values():
        leaf.grad = None


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces along the first dimension, so that a comparison in float64 needs little memory."""
    if tensors[0].dim() == 0:
        yield tensors
        return
    rows = max(1, CHUNK * len(tensors[0]) // max(1, tensors[0].numel()))
    yield from zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)


def relative(error: float, scale: float) -> float:
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else math.inf


def error_of(got: Tensor, exact: Tensor) -> float:
    error = scale = 0.0
    for part, exact_part in chunks(got, exact):
        error = max(error, (part.double() - exact_part).abs_().max().item())
        scale = max(scale, exact_part.abs().max().item())
    return relative(error, scale)


def errors_by_column(got: Tensor, exact: Tensor, target: Tensor) -> tuple[float, float]:
    """Errors of the target column and of the other columns; classes are dimension 1."""
    error, scale = [0.0, 0.0], [0.0, 0.0]
    for part, exact_part, classes in chunks(got, exact, target):
        index = classes.unsqueeze(1)
        difference, magnitude = (part.double() - exact_part).abs_(), exact_part.abs()
        for side in (0, 1):
            error[side] = max(error[side], (difference.gather(1, index) if side == 0 else difference).max().item())
            scale[side] = max(scale[side], (magnitude.gather(1, index) if side == 0 else magnitude).max().item())
            # After the target column has been read, zeros take it out of the maxima of the others.
            difference.scatter_(1, index, 0.0)
            magnitude.scatter_(1, index, 0.0)
    return relative(error[0], scale[0]), relative(error[1], scale[1])


def complaints_about_form(outputs: Outputs, exact: Outputs, problem: Problem) -> list[str]:
    found = []
    if outputs.value.shape != exact.value.shape:
        found.append(f"the value has shape {tuple(outputs.value.shape)}, not {tuple(exact.value.shape)}")
    if not outputs.value.isfinite().all():
        found.append("the value is not finite everywhere")
    for name, expected in exact.gradients.items():
        gradient = outputs.gradients.get(name)
        if gradient is None:
            found.append(f"there is no gradient of {name}")
            continue
        if gradient.shape != expected.shape or gradient.dtype != problem.inputs[name].dtype:
            found.append(f"the gradient of {name} is {gradient.dtype} with shape {tuple(gradient.shape)}")
        lost = int((~gradient.isfinite()).sum())
        if lost:
            found.append(f"the gradient of {name} is not finite at {lost:,} of {gradient.numel():,} elements")
    return found


def errors_of(outputs: Outputs, exact: Outputs, problem: Problem) -> dict[str, float]:
    errors = {"value": error_of(outputs.value, exact.value)}
    for name, gradient in outputs.gradients.items():
        if problem.class_target is None or problem.produce is not None:
            errors[name] = error_of(gradient, exact.gradients[name])
            continue
        target_column, other_columns = errors_by_column(gradient, exact.gradients[name], problem.class_target)
        errors[f"{name} target column"] = target_column
        errors[f"{name} other columns"] = other_columns
    return errors


def resolution(part: str, outputs: Outputs) -> float:
    """The unit in the last place, relative, of the dtype in which this part is delivered."""
    if part == "value":
        return torch.finfo(outputs.value.dtype).eps
    return max(torch.finfo(gradient.dtype).eps for gradient in outputs.gradients.values())


def judge(peer: Peer, errors: Mapping[str, float], of_eager: Mapping[str, float], outputs: Outputs) -> list[str]:
    found = []
    for part, error in errors.items():
        unit = resolution(part, outputs)
        if peer.name == "eager":
            # Half the digits, and twice less: torch's ctc_loss has no more of them after 200 frames.
            allowed = 4 * math.sqrt(unit)
        elif peer.name in OURS:
            allowed = FACTOR * of_eager[part] + ULPS * unit
        else:
            allowed = FACTOR_OF_OTHERS * of_eager[part] + ULPS_OF_OTHERS * unit
        # Written so that a NaN is refused too.
        if not error <= allowed:
            found.append(
                f"{part}: error {error:.2g} against float64, allowed {allowed:.2g}, eager {of_eager[part]:.2g}"
            )
    return found


def check(problem: Problem, peers: Sequence[Peer]) -> dict[str, Verdict]:
    """A verdict for every peer that computes a loss; eager has to be among them."""
    checked = sorted((peer for peer in peers if peer.forward is not None), key=lambda peer: peer.name != "eager")
    if not checked or checked[0].name != "eager":
        raise ValueError("check: eager is the yardstick and has to be among the peers.")
    verdicts = {peer.name: Verdict() for peer in checked}
    exact_peer = truth(problem)
    for as_timed, grad_output in ((True, problem.grad_outputs[0]), (False, problem.grad_outputs[1])):
        exact = run(exact_peer, grad_output, as_timed=False)
        of_eager: dict[str, float] = {}
        for peer in checked:
            verdict = verdicts[peer.name]
            try:
                outputs = run(peer, grad_output, as_timed=as_timed)
            # Whatever a peer raises is its result, and the others go on.
            except Exception as error:
                first_line = str(error).strip().partition("\n")[0]
                verdict.complaints.append(f"raised {type(error).__name__}: {first_line}")
                continue
            form = complaints_about_form(outputs, exact, problem)
            if form:
                verdict.complaints += form
            else:
                errors = errors_of(outputs, exact, problem)
                if peer.name == "eager":
                    of_eager = errors
                if of_eager:
                    verdict.complaints += judge(peer, errors, of_eager, outputs)
                if as_timed:
                    verdict.errors = errors
            poison_and_release(peer, outputs)
            del outputs
    return verdicts
