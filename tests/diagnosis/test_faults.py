"""Each fault: silent in PyTorch, found and told in these words, and gone with the fix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import losskit
from diagnosis.faults import FAULTS, Fault
from losskit.diagnosis.checks import CHECKS, KINDS
from losskit.replace import FUNCTIONS

# torch itself tells of some shapes.
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")
# They need several calls, and have tests of their own.
OF_SEVERAL_CALLS = {"first-loss", "mean-of-means", "no-gradient", "plateau"}


def of(name: str) -> Any:
    return pytest.param(next(fault for fault in FAULTS if fault.name == name), id=name)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_pytorch_computes(fault: Fault) -> None:
    torch.manual_seed(0)
    criterion, arguments = fault.call()
    try:
        # −0.0 is 0.
        value = f"{criterion(*arguments).sum().item() + 0.0:.4f}"
    except (IndexError, RuntimeError) as error:
        value = f"{type(error).__name__}: {error}"
    assert value == fault.value


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_finding_and_its_words(fault: Fault) -> None:
    torch.manual_seed(0)
    report = losskit.diagnose(*unpacked(fault.call()))
    assert report.codes == (fault.code,)
    finding = report.findings[0]
    assert finding.severity == fault.severity
    assert (finding.seen, finding.why, finding.fix) == (fault.seen, fault.why, fault.fix)
    assert finding.page == f"docs/findings/{fault.code}.md"
    assert finding.check == next(kind.check for kind in KINDS if kind.code == fault.code)
    assert report.notes == ()
    assert report.has_errors == (fault.severity == "error")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fix(fault: Fault) -> None:
    torch.manual_seed(0)
    report = losskit.diagnose(*unpacked(fault.mended()))
    assert (report.findings, report.notes, report.error) == ((), (), None)


# There losskit has the gradient that the eps in the definition makes, 1e-12, and torch 0.
TORCH_ALONE = {"a gradient that is 0"}


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.name not in TORCH_ALONE], ids=lambda fault: fault.name
)
def test_losskit_in_the_place_of_torch(fault: Fault) -> None:
    torch.manual_seed(0)
    with losskit.replace_torch_losses():
        call = unpacked(fault.call())
        assert "losskit" in getattr(call[0], "__module__", type(call[0]).__module__) or fault.name == "a root of 0"
        report = losskit.diagnose(*call)
    assert report.codes == (fault.code,)
    assert report.findings[0].seen == fault.seen


def unpacked(call: Any) -> Any:
    criterion, arguments = call
    return (criterion, *arguments)


def test_every_kind_has_a_fault_here_or_a_test_of_its_own() -> None:
    assert {fault.code for fault in FAULTS} | OF_SEVERAL_CALLS == {kind.code for kind in KINDS}
    assert {fault.code for fault in FAULTS} & OF_SEVERAL_CALLS == set()


def test_the_registry() -> None:
    assert [check.number for check in CHECKS] == list(range(1, 13))
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))
    for check in CHECKS:
        assert all(kind.check == check.number for kind in check.kinds)
        assert set(check.functions) <= set(FUNCTIONS)
        assert check.before or check.after
        assert check.what
    # No loss goes unchecked, by more than the checks that look at all.
    for function in FUNCTIONS:
        assert sum(function in check.functions for check in CHECKS) >= 3, function


def test_a_broadcast_regression_stops_at_the_variance_of_its_target() -> None:
    target = torch.linspace(0, 6.2, 64).sin()
    prediction = torch.zeros(64, 1, requires_grad=True)
    optimizer = torch.optim.SGD([prediction], lr=10.0)
    for _ in range(100):
        loss = torch.nn.functional.mse_loss(prediction, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(loss.detach(), target.var(unbiased=False), rtol=1e-5, atol=0)
    # Whatever the prediction was, it became the mean.
    torch.testing.assert_close(prediction.detach(), target.mean().expand(64, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fault", [of("0 and 1 for signs"), of("one point for all"), of("a gradient that is 0")])
def test_a_gradient_that_is_0_in_pytorch_too(fault: Fault) -> None:
    criterion, arguments = fault.call()
    first = arguments[0].detach().requires_grad_()
    criterion(first, *arguments[1:]).backward()
    assert first.grad is not None
    rows = first.grad[arguments[2] == 0] if fault.code == "target-not-plus-minus-one" else first.grad
    assert rows.numel() > 0
    assert not bool(rows.any())


def test_a_sigmoid_that_reached_its_end_has_no_gradient_and_the_fix_has_one() -> None:
    score = torch.tensor([20.0], requires_grad=True)
    torch.nn.functional.binary_cross_entropy(score.sigmoid(), torch.zeros(1)).backward()
    assert score.grad is not None
    assert score.grad.item() == 0.0
    score.grad = None
    loss = torch.nn.functional.binary_cross_entropy_with_logits(score, torch.zeros(1))
    loss.backward()
    assert loss.item() == 20.0
    assert score.grad.item() == 1.0
