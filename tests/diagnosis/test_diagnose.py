"""`losskit.diagnose`: what it takes, what it leaves alone, and what it says where it cannot look."""

from __future__ import annotations

import functools
import json
import threading
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losskit
from losskit.diagnosis.interception import _holds
from losskit.diagnosis.site import shown
from losskit.errors import LosskitTypeError, LosskitValueError

LOGITS = 20 * torch.eye(10)
CLASSES = torch.arange(10)
HERE = shown(__file__)


def codes(*call: Any, **options: Any) -> tuple[str, ...]:
    report = losskit.diagnose(*call, **options)
    assert report.notes == ()
    return report.codes


class Temperature(nn.CrossEntropyLoss):
    """A subclass with a forward of its own, which is right."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input / 2, target)


class Careless(nn.CrossEntropyLoss):
    """And one that is not: the fault is inside."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.softmax(1), target)


class Own(nn.Module):
    """A criterion that is a subclass of none."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(input.softmax(1).log_softmax(1), target) + 0.1 * input.square().mean()


class Named(nn.Module):
    """With a function under a name of its own."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return entropy(input.softmax(1), target)


from torch.nn.functional import cross_entropy as entropy  # noqa: E402  # what is tested is the import here


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(),
        losskit.CrossEntropyLoss(),
        F.cross_entropy,
        losskit.functional.cross_entropy,
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        functools.partial(losskit.functional.cross_entropy, label_smoothing=0.1),
        Temperature(),
        lambda input, target: F.cross_entropy(input, target),
        lambda input, target: entropy(input, target),
    ],
    ids=lambda criterion: getattr(criterion, "__name__", type(criterion).__name__),
)
def test_every_kind_of_criterion(criterion: Any) -> None:
    logits = LOGITS.clone().requires_grad_()
    assert codes(criterion, logits, CLASSES) == ()
    # Divided by a temperature, it is not the softmax's output that reaches the loss: only its graph tells.
    expected = () if isinstance(criterion, Temperature) else ("double-softmax",)
    assert codes(criterion, logits.softmax(1), CLASSES) == expected
    assert codes(criterion, logits.detach().softmax(1), target=CLASSES) == expected


@pytest.mark.parametrize("criterion", [Careless(), Own(), Named()], ids=lambda criterion: type(criterion).__name__)
def test_a_fault_inside_the_criterion(criterion: nn.Module) -> None:
    report = losskit.diagnose(criterion, LOGITS.clone().requires_grad_(), CLASSES)
    assert report.codes == ("double-softmax",)
    assert report.findings[0].file is not None
    # The line is in the class above.
    assert report.findings[0].file.endswith("test_diagnose.py")


def test_the_line_of_the_call() -> None:
    report = losskit.diagnose(nn.CrossEntropyLoss(), LOGITS.softmax(1), CLASSES)
    here = test_the_line_of_the_call.__code__.co_firstlineno
    assert (report.findings[0].line, report.findings[0].function) == (here + 1, "cross_entropy")


def test_the_graph_is_neither_used_nor_changed() -> None:
    weight = torch.randn(10, 10, requires_grad=True)
    seen: list[Tensor] = []
    logits = LOGITS @ weight
    logits.register_hook(seen.append)
    version = logits._version
    report = losskit.diagnose(nn.CrossEntropyLoss(), logits, CLASSES)
    assert report.findings == ()
    assert (seen, weight.grad, logits.grad_fn is not None, logits._version) == ([], None, True, version)
    F.cross_entropy(logits, CLASSES).backward()
    assert len(seen) == 1
    assert weight.grad is not None
    expected = torch.autograd.grad(F.cross_entropy(LOGITS @ weight, CLASSES), weight)[0]
    assert torch.equal(weight.grad, expected)


def test_the_gradient_is_that_of_a_copy() -> None:
    """Of a leaf, whose hooks are not called, and of what a model puts out, whose graph is not entered."""
    seen: list[Tensor] = []
    point = torch.zeros(4, 2, requires_grad=True)
    point.register_hook(seen.append)
    between = point * 1
    between.register_hook(seen.append)
    for anchor in (point, between):
        assert codes(nn.TripletMarginLoss(), anchor, torch.zeros(4, 2), torch.zeros(4, 2)) == ("zero-gradient",)
    assert (seen, point.grad) == ([], None)


def test_a_loss_that_overwrites_its_input_gets_a_copy() -> None:
    weight = torch.randn(10, 10, requires_grad=True)
    logits = LOGITS @ weight
    before = logits.detach().clone()
    criterion = losskit.CrossEntropyLoss(inplace_backward=True)
    assert codes(criterion, logits, CLASSES) == ()
    assert codes(losskit.functional.cross_entropy, logits.softmax(1), CLASSES, inplace_backward=True) == (
        "double-softmax",
    )
    assert torch.equal(logits.detach(), before)


def test_random_numbers_and_modes_stay() -> None:
    state = torch.get_rng_state()
    with torch.no_grad():
        losskit.diagnose(nn.CrossEntropyLoss(), LOGITS, CLASSES)
        assert not torch.is_grad_enabled()
    losskit.diagnose(nn.MSELoss(), LOGITS, LOGITS)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_stays_replaced() -> None:
    before = dict(vars(F)), dict(vars(losskit.functional)), entropy
    losskit.diagnose(Named(), LOGITS, CLASSES)
    with pytest.raises(IndexError):
        losskit.diagnose(lambda: F.cross_entropy(LOGITS, CLASSES) or [][0])
    assert (dict(vars(F)), dict(vars(losskit.functional)), entropy) == before
    assert _holds == {}


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        ((nn.CrossEntropyLoss(), [[1.0]], CLASSES), TypeError, "argument 'input' .* must be Tensor, not list"),
        ((nn.CrossEntropyLoss(),), TypeError, "missing 2 required positional arguments"),
        ((F.cross_entropy, LOGITS, CLASSES[:3]), ValueError, r"Expected input batch_size \(10\) to match target"),
        ((losskit.MSELoss(), LOGITS, "target"), LosskitTypeError, "mse_loss: target must be a torch.Tensor, got str"),
        ((nn.MSELoss(), torch.zeros(3), torch.zeros(4)), RuntimeError, "The size of tensor a"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_the_calls_own_error_comes_out(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as from_diagnose:
        losskit.diagnose(*call)
    with pytest.raises(kind) as from_call:
        call[0](*call[1:])
    assert str(from_diagnose.value) == str(from_call.value)
    assert type(from_diagnose.value) is type(from_call.value)


def test_an_error_that_a_finding_explains_stands_in_the_report() -> None:
    report = losskit.diagnose(nn.CrossEntropyLoss(), LOGITS, CLASSES + 1)
    assert report.codes == ("target-out-of-range",)
    assert isinstance(report.error, IndexError)
    assert str(report).endswith("\n\nthe call raised IndexError: Target 10 is out of bounds.")
    assert json.loads(report.to_json())["error"] == "IndexError: Target 10 is out of bounds."


def test_a_backward_that_fails_is_noted() -> None:
    target = torch.zeros(3, dtype=torch.float64)
    report = losskit.diagnose(nn.HuberLoss(), torch.ones(3, requires_grad=True), target)
    assert report.codes == ("float64-target",)
    assert report.notes == ("the gradient: backward raises RuntimeError: Found dtype Double but expected Float",)


def test_wrong_use() -> None:
    with pytest.raises(
        LosskitTypeError, match=r"^diagnose: criterion must be a loss module or function, got Tensor\.$"
    ):
        losskit.diagnose(LOGITS, CLASSES)  # type: ignore[arg-type]  # the wrong type is what is tested
    message = r"^diagnose: criterion is the class CrossEntropyLoss; make one of it first: CrossEntropyLoss\(\)\.$"
    with pytest.raises(LosskitTypeError, match=message):
        losskit.diagnose(nn.CrossEntropyLoss, LOGITS, CLASSES)
    message = r"^diagnose: Linear calls no loss of torch\.nn or losskit; give it the criterion that does\.$"
    with pytest.raises(LosskitValueError, match=message):
        losskit.diagnose(nn.Linear(10, 1), LOGITS)


# tensors of every kind ------------------------------------------------------------------------------------------------


def note(*call: Any) -> str:
    report = losskit.diagnose(*call)
    assert report.findings == ()
    (found,) = report.notes
    return found.split(": ", 1)[1]


@pytest.mark.parametrize(("index", "fix"), [(3, "a last layer with 4 outputs"), (9, "a last layer with 10 outputs")])
def test_a_class_that_the_layer_has_no_output_for_is_not_to_be_ignored(index: int, fix: str) -> None:
    report = losskit.diagnose(F.cross_entropy, torch.randn(4, 3), torch.tensor([0, 1, 2, index]))
    assert report.codes == ("target-out-of-range",)
    assert report.findings[0].fix == fix


def test_tensors_without_values() -> None:
    meta = torch.zeros(10, 10, device="meta")
    reason = "a tensor is on the meta device and has no values"
    assert note(F.cross_entropy, meta, CLASSES.to("meta")) == reason
    assert note(F.mse_loss, meta, meta) == reason


def test_fake_tensors() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(3, 3)
        assert note(F.mse_loss, fake, fake) == "a torch dispatch mode is active"
    assert note(F.mse_loss, fake, fake) == "a tensor is a FakeTensor"


def test_under_transforms() -> None:
    x = torch.randn(4, 3)

    def inside(x: Tensor) -> Tensor:
        assert note(F.mse_loss, x, x) == "a torch.func transform is active"
        return x.sum()

    torch.func.vmap(inside)(x)
    torch.func.grad(inside)(x[0])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_while_traced() -> None:
    def inside(x: Tensor) -> Tensor:
        assert note(F.mse_loss, x, x) == "torch.jit.trace is tracing"
        return x + 1

    torch.jit.trace(inside, torch.zeros(3), check_trace=False)


@pytest.mark.parametrize("convert", [lambda x: x.to_sparse(), lambda x: x.to(torch.complex64)])
def test_layouts_and_numbers_that_are_not_read(convert: Any) -> None:
    report = losskit.diagnose(lambda x: F.l1_loss(x.to_dense().real, x.to_dense().real), convert(torch.ones(3)))
    assert report.codes == ()
    reported = losskit.diagnose(F.l1_loss, torch.ones(3, dtype=torch.complex64), torch.ones(3))
    assert reported.notes[0].endswith("a tensor is complex")


def test_a_subclass_of_tensor_is_read_and_its_functions_left_alone() -> None:
    seen: list[Any] = []

    class Mask(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return super().__torch_function__(function, kinds, args, kwargs)

    target = torch.tensor([0.0, 255.0]).as_subclass(Mask)
    seen.clear()
    F.binary_cross_entropy_with_logits(torch.zeros(2), target)
    expected = len(seen)
    seen.clear()
    assert losskit.diagnose(nn.BCEWithLogitsLoss(), torch.zeros(2), target).codes == ("target-out-of-range",)
    names = [getattr(function, "__name__", "") for function in seen]
    # The copy's own, then those of the call itself.
    assert names.count("binary_cross_entropy_with_logits") == 1
    assert "aminmax" not in names
    assert len(seen) <= expected + 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    notes = {"half-precision-loss"} if dtype in (torch.bfloat16, torch.float16) else set()
    logits = LOGITS.clone().to(dtype).requires_grad_()
    assert set(codes(nn.CrossEntropyLoss(), logits, CLASSES)) == notes
    assert set(codes(nn.CrossEntropyLoss(), logits.softmax(1), CLASSES)) == {"double-softmax"} | notes
    # Without the graph, by values alone.
    soft = (0.1 * LOGITS).to(dtype).softmax(1)
    assert set(codes(nn.CrossEntropyLoss(), soft, CLASSES)) == {"double-softmax"} | notes
    assert set(codes(nn.NLLLoss(), (0.1 * LOGITS).to(dtype).log_softmax(1), CLASSES)) == notes


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ((nn.CrossEntropyLoss(), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)), ("non-finite-loss",)),
        ((nn.CrossEntropyLoss(reduction="sum"), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)), ()),
        ((nn.CrossEntropyLoss(reduction="none"), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)), ()),
        ((nn.NLLLoss(), torch.zeros(0, 3, 4), torch.zeros(0, 4, dtype=torch.long)), ("non-finite-loss",)),
        ((nn.KLDivLoss(reduction="batchmean"), torch.zeros(0, 3), torch.zeros(0, 3)), ("non-finite-loss",)),
        ((nn.MSELoss(), torch.zeros(()), torch.zeros(())), ()),
        ((nn.BCEWithLogitsLoss(), torch.zeros(()), torch.ones(())), ()),
        ((nn.CrossEntropyLoss(), torch.zeros(3), torch.tensor(1)), ()),
        ((nn.CrossEntropyLoss(), torch.zeros(3), torch.tensor([0.2, 0.3, 0.5])), ()),
        ((nn.HingeEmbeddingLoss(), torch.zeros(()), torch.ones(())), ()),
        ((nn.CTCLoss(), torch.zeros(4, 3).log_softmax(1), torch.tensor([1]), (4,), (1,)), ()),
        ((nn.TripletMarginLoss(), torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, 2)), ("non-finite-loss",)),
    ],
)
def test_empty_and_scalar_calls(call: Any, expected: tuple[str, ...]) -> None:
    assert codes(*call) == expected


def test_what_is_masked_or_weighs_nothing_is_not_looked_at() -> None:
    scores, target = torch.zeros(4), torch.tensor([0.0, 1.0, 1.0, -1.0])
    assert codes(nn.BCEWithLogitsLoss(), scores, target) == ("target-out-of-range",)
    counts = target >= 0
    assert codes(nn.BCEWithLogitsLoss(weight=counts.float()), scores, target) == ()
    assert codes(losskit.BCEWithLogitsLoss(), scores, target, mask=counts) == ()
    signs = 2 * target - 1
    assert codes(losskit.SoftMarginLoss(), scores, signs) == ("target-not-plus-minus-one",)
    assert codes(losskit.SoftMarginLoss(), scores, signs, sample_weight=counts.float()) == ()
    labels = torch.tensor([0, 1, 2, 7])
    assert codes(losskit.CrossEntropyLoss(), torch.zeros(4, 3), labels, mask=labels < 3) == ()


@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_the_old_flags_for_a_reduction() -> None:
    weight, scores, target = torch.tensor([1.0, 2.0]), torch.zeros(4, 2, requires_grad=True), torch.ones(4).long()
    for flags, expected in (
        ({}, ("weights-cancel",)),
        ({"size_average": True}, ("weights-cancel",)),
        ({"size_average": False}, ()),
        ({"reduce": False}, ("not-a-scalar",)),
        ({"reduce": True}, ("weights-cancel",)),
        ({"reduction": "sum"}, ()),
    ):
        assert codes(F.cross_entropy, scores, target, weight, **flags) == expected


def test_nothing_under_the_mask() -> None:
    report = losskit.diagnose(losskit.MSELoss(), torch.zeros(3), torch.zeros(3), mask=torch.zeros(3, dtype=torch.bool))
    assert report.codes == ("nothing-counts",)
    assert report.findings[0].seen == "All 3 targets are masked."


def test_a_divergence_over_the_first_axis_on_both_sides_is_meant() -> None:
    x, y = torch.randn(8, 3).log_softmax(0), torch.randn(8, 3).softmax(0)
    assert codes(functools.partial(F.kl_div, reduction="sum"), x, y) == ()
    assert codes(functools.partial(F.kl_div, reduction="sum", log_target=True), x, y.log()) == ()
    assert codes(functools.partial(F.kl_div, reduction="sum"), x, torch.randn(8, 3).softmax(1)) == (
        "softmax-over-wrong-dim",
    )


def test_in_inference_mode() -> None:
    with torch.inference_mode():
        logits = LOGITS + 0
        assert codes(nn.CrossEntropyLoss(), logits, CLASSES) == ()
        assert codes(nn.CrossEntropyLoss(), logits.softmax(1), CLASSES) == ("double-softmax",)


def test_under_autocast_and_another_default_device() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        weight = torch.eye(10, requires_grad=True)
        assert codes(nn.CrossEntropyLoss(), LOGITS @ weight, CLASSES) == ()
        assert codes(nn.CrossEntropyLoss(), (LOGITS @ weight).softmax(1), CLASSES) == ("double-softmax",)
    # A mode of torch functions, which puts new tensors there.
    with torch.device("meta"):
        assert codes(nn.CrossEntropyLoss(), LOGITS.softmax(1), CLASSES) == ("double-softmax",)
        tags = torch.arange(80, device="cpu").reshape(8, 10) * 7 % 10
        scores = 20 * F.one_hot(tags, 10).float()
        assert codes(nn.CrossEntropyLoss(), scores, tags) == ("class-axis",)


def test_a_large_graph_is_walked_a_few_steps() -> None:
    x = torch.zeros(10, 10, requires_grad=True)
    for _ in range(10_000):
        x = x.t()
    assert codes(nn.CrossEntropyLoss(), x, CLASSES) == ()
    # Six views away a softmax is seen, and seven away it is not: its values are.
    soft = LOGITS.clone().requires_grad_().softmax(1) * torch.ones(10, 10).requires_grad_()
    assert codes(nn.CrossEntropyLoss(), soft, CLASSES) == ("double-softmax",)
    near = far = LOGITS.clone().requires_grad_().softmax(1)
    for _ in range(6):
        near = near.t()
    for _ in range(8):
        far = far.t()
    reports = [losskit.diagnose(nn.CrossEntropyLoss(), each, CLASSES) for each in (near, far)]
    assert [report.findings[0].seen.split()[0] for report in reports] == ["input", "The"]


def test_a_check_that_fails_is_noted_and_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from losskit.diagnosis.checks import activation

    monkeypatch.setattr(activation, "producer", lambda *_: 1 / 0)
    report = losskit.diagnose(nn.CrossEntropyLoss(), LOGITS, CLASSES)
    line = test_a_check_that_fails_is_noted_and_disturbs_nobody.__code__.co_firstlineno + 4
    assert report.notes == (f"cross_entropy, {HERE}:{line}: check 1 failed with ZeroDivisionError: division by zero",)


def test_two_threads() -> None:
    found: dict[int, list[tuple[str, ...]]] = {0: [], 1: []}

    def work(number: int) -> None:
        logits = LOGITS.softmax(1) if number else LOGITS.clone()
        for _ in range(30):
            found[number].append(losskit.diagnose(nn.CrossEntropyLoss(), logits, CLASSES).codes)

    threads = [threading.Thread(target=work, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [()] * 30, 1: [("double-softmax",)] * 30}
    assert isinstance(F.cross_entropy, types.FunctionType)
    assert not hasattr(F.cross_entropy, "__original_fn")
    assert _holds == {}


# the report -----------------------------------------------------------------------------------------------------------


def test_the_report_in_words() -> None:
    report = losskit.diagnose(nn.CrossEntropyLoss(), LOGITS.softmax(1), CLASSES)
    line = test_the_report_in_words.__code__.co_firstlineno + 1
    assert str(report) == (
        f"error: double-softmax in cross_entropy, {HERE}:{line}\n"
        "  seen  The first 8 rows of input hold no negative number and each adds up to 1: probabilities.\n"
        "  why   cross_entropy applies a softmax itself: after two, a perfect prediction of 10 classes costs 1.4612\n"
        "        instead of 0, and the gradient is small everywhere.\n"
        "  fix   cross_entropy(logits, target), without the softmax\n"
        "  more  docs/findings/double-softmax.md"
    )
    assert repr(report) == "<Report: 1 error>"


def test_the_report_for_programs() -> None:
    report = losskit.diagnose(nn.NLLLoss(), LOGITS.bfloat16(), CLASSES)
    data = json.loads(report.to_json())
    assert [finding["code"] for finding in data["findings"]] == ["not-log-probabilities", "half-precision-loss"]
    assert data["findings"][0]["severity"] == "error"
    assert data["not_checked"] == []
    assert repr(report) == "<Report: 1 error, 1 note>"


def test_the_worst_comes_first() -> None:
    weight = torch.tensor([1.0, 2.0])
    report = losskit.diagnose(
        nn.CrossEntropyLoss(weight=weight), torch.zeros(4, 2).bfloat16().softmax(1), torch.ones(4).long()
    )
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "info").index)
    assert report.codes[0] == "double-softmax"
