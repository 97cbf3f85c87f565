"""`losskit.watch`: what it sees, how often it looks, and that it leaves everything as it is."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losskit
from losskit.diagnosis import watching as rooms
from losskit.diagnosis.interception import _holds
from losskit.diagnosis.site import shown
from losskit.errors import LosskitTypeError, LosskitValueError, LossWarning

CLASSES = torch.arange(10)
SOFT = (20 * torch.eye(10)).softmax(1)
HERE = shown(__file__)
LINES = Path(__file__).read_text("utf-8").splitlines()


def scores() -> Tensor:
    """Of an untrained classifier."""
    return (0.1 * torch.randn(10, 10)).requires_grad_()


@pytest.fixture(autouse=True)
def _everything_as_before() -> Any:
    before = {name: vars(getattr(nn, name)).get("__call__") for name in dir(nn) if name.endswith("Loss")}
    functions = dict(vars(F)), dict(vars(losskit.functional))
    yield
    assert {name: vars(getattr(nn, name)).get("__call__") for name in before} == before
    assert (dict(vars(F)), dict(vars(losskit.functional))) == functions
    assert _holds == {}
    gc.collect()
    assert (len(rooms._watched), rooms._classes, rooms._own_calls) == (0, {}, {})


def caught(run: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    return [each for each in seen if each.category is LossWarning]


class Subclass(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target) + 0


class OwnCall(nn.CrossEntropyLoss):
    called = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.called += 1
        return super().__call__(*args, **kwargs)


CRITERIA = [nn.CrossEntropyLoss, losskit.CrossEntropyLoss, Subclass, OwnCall]


@pytest.mark.parametrize("kind", CRITERIA)
def test_one_warning_for_one_fault(kind: type[nn.Module]) -> None:
    criterion = kind()

    def train() -> None:
        with losskit.watch(criterion), torch.no_grad():
            for _ in range(10):
                criterion(SOFT, CLASSES)

    (warning,) = caught(train)
    assert str(warning.message) == (
        "double-softmax in cross_entropy: The first 8 rows of input hold no negative number and each adds up to 1: "
        "probabilities. cross_entropy applies a softmax itself: after two, a perfect prediction of 10 classes costs "
        "1.4612 instead of 0, and the gradient is small everywhere. Fix: cross_entropy(logits, target), without the "
        "softmax (docs/findings/double-softmax.md)"
    )
    # A subclass has the code that calls the loss.
    calling = {
        Subclass: "        return super().forward(input, target) + 0",
        OwnCall: "        return super().__call__(*args, **kwargs)",
    }.get(kind, "                criterion(SOFT, CLASSES)")
    assert (warning.filename, warning.lineno) == (HERE, LINES.index(calling) + 1)
    if isinstance(criterion, OwnCall):
        assert criterion.called == 10


@pytest.mark.parametrize("kind", CRITERIA)
def test_no_number_and_no_option_changes(kind: type[nn.Module]) -> None:
    criterion, logits = kind(label_smoothing=0.1), scores()
    plain = criterion(logits, CLASSES)
    (gradient,) = torch.autograd.grad(plain, logits)
    options, state = dict(vars(criterion)), criterion.state_dict()
    with losskit.watch(criterion, every=1):
        for _ in range(5):
            loss = criterion(logits, CLASSES)
            assert torch.equal(loss, plain)
            assert type(loss.grad_fn) is type(plain.grad_fn)
            assert torch.equal(torch.autograd.grad(loss, logits)[0], gradient)
        assert {name: value for name, value in vars(criterion).items() if name != "called"} == {
            name: value for name, value in options.items() if name != "called"
        }
        assert criterion.state_dict() == state
        assert repr(criterion) == repr(kind(label_smoothing=0.1))


def test_second_derivatives_pass() -> None:
    criterion, logits = nn.CrossEntropyLoss(), scores()
    with losskit.watch(criterion):
        (first,) = torch.autograd.grad(criterion(logits, CLASSES), logits, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), logits)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, CLASSES), logits, create_graph=True)
    assert torch.equal(second, torch.autograd.grad(expected.square().sum(), logits)[0])


def test_copies_and_pickles_are_as_ever_and_not_watched() -> None:
    criterion = nn.CrossEntropyLoss(weight=torch.ones(10))
    plain = pickle.dumps(criterion)
    with losskit.watch(criterion) as watching:
        assert pickle.dumps(criterion) == plain
        file = io.BytesIO()
        torch.save(nn.Sequential(nn.Linear(2, 2), criterion), file)
        file.seek(0)
        for other in (
            pickle.loads(plain),
            copy.deepcopy(criterion),
            copy.copy(criterion),
            torch.load(file, weights_only=False)[1],
        ):
            assert other(SOFT, CLASSES).item() == pytest.approx(1.4612, abs=1e-4)
    assert watching.report.codes == ()


def test_three_calls_and_then_every_so_many() -> None:
    criterion, logits = nn.CrossEntropyLoss(), scores()
    with losskit.watch(criterion) as watching:
        ((_, watched),) = watching._watched
        checked = []
        for _ in range(2001):
            criterion(logits, CLASSES)
            checked.append(watched.calls.checked)
    assert watched.calls.calls == 2001
    assert checked[:4] == [1, 2, 3, 3]
    assert (checked[998], checked[999], checked[1998], checked[1999], checked[2000]) == (3, 4, 4, 5, 5)


def test_evaluation_before_training_does_not_use_up_the_first_calls() -> None:
    criterion = nn.CrossEntropyLoss()
    with losskit.watch(criterion) as watching:
        ((_, watched),) = watching._watched
        with torch.no_grad():
            for _ in range(50):
                criterion(scores(), CLASSES)
        for _ in range(50):
            criterion(scores(), CLASSES)
    assert (watched.calls.checked, watched.calls.calls, watched.calls.training_calls) == (6, 100, 50)


def test_remove_and_an_exception() -> None:
    criterion = nn.CrossEntropyLoss()
    watching = losskit.watch(criterion)
    watching.remove()
    watching.remove()
    assert criterion(SOFT, CLASSES).item() == pytest.approx(1.4612, abs=1e-4)
    assert watching.report.codes == ()
    with pytest.raises(KeyError), losskit.watch(criterion):
        raise KeyError
    assert repr(watching) == "<Watch of CrossEntropyLoss: no fault found>"


def test_twice() -> None:
    criterion = nn.CrossEntropyLoss()

    def train() -> None:
        first, second = losskit.watch(criterion), losskit.watch(criterion)
        criterion(SOFT, CLASSES)
        first.remove()
        # The second still watches, and knows what the first has told.
        criterion(SOFT, CLASSES)
        assert second.report.codes == first.report.codes == ("double-softmax",)
        second.remove()

    assert len(caught(train)) == 1


def test_a_criterion_and_a_class_above_it() -> None:
    """Each call is counted once, and either may go first."""
    for order in ([0, 1], [1, 0]):
        criteria = [nn.CrossEntropyLoss(), losskit.CrossEntropyLoss()]
        watching = [losskit.watch(criterion) for criterion in criteria]
        for criterion in criteria:
            criterion(scores(), CLASSES)
        for number in order:
            ((_, watched),) = watching[number]._watched
            assert watched.calls.calls == 1
            watching[number].remove()
        assert criteria[0](scores(), CLASSES) > 0
        assert criteria[1](scores(), CLASSES) > 0


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 10)
        self.criterion = nn.CrossEntropyLoss()
        self.extra = nn.ModuleList([losskit.NLLLoss(), nn.MSELoss()])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        probabilities = self.body(x).softmax(1)
        loss: Tensor = self.criterion(probabilities, y) + self.extra[0](probabilities, y)
        return loss


class Functional(nn.Module):
    """It holds no loss module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 10)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.body(x).softmax(1), y)


def test_the_losses_of_a_model() -> None:
    model = Model()

    def train() -> None:
        with losskit.watch(model) as watching:
            for _ in range(4):
                model(torch.randn(10, 4), CLASSES)
        assert watching.report.codes == ("double-softmax", "not-log-probabilities")
        assert repr(watching) == "<Watch of CrossEntropyLoss, NLLLoss, MSELoss: 2 errors>"

    assert len(caught(train)) == 2


def test_a_module_that_calls_functions() -> None:
    model = Functional()

    def train() -> None:
        with losskit.watch(model) as watching:
            model(torch.randn(10, 4), CLASSES)
        assert watching.report.codes == ("double-softmax",)

    assert len(caught(train)) == 1


def test_a_module_without_a_loss() -> None:
    model = nn.Linear(4, 4)
    with losskit.watch(model) as watching:
        for _ in range(3):
            model(torch.zeros(1, 4))
    assert watching.report.notes == ("Linear: it calls no loss of torch.nn or losskit by name",)


def test_wrong_use() -> None:
    with pytest.raises(
        LosskitTypeError,
        match=r"^watch: criterion_or_model must be a torch\.nn\.Module, got function; `losskit doctor SCRIPT` watches "
        r"functions too\.$",
    ):
        losskit.watch(F.cross_entropy)  # type: ignore[arg-type]  # the wrong type is what is tested
    for every in (0, 1.5, True):
        with pytest.raises(LosskitValueError, match=r"^watch: every must be a whole number of 1 or more, got "):
            losskit.watch(nn.MSELoss(), every=every)  # type: ignore[arg-type]  # the wrong type is what is tested


def test_an_error_of_the_criterion_comes_out_and_its_cause_is_told() -> None:
    criterion = nn.CrossEntropyLoss()

    def train() -> None:
        with pytest.raises(IndexError, match=r"^Target 10 is out of bounds\.$"), losskit.watch(criterion):
            criterion(scores(), CLASSES + 1)

    (warning,) = caught(train)
    assert str(warning.message).startswith("target-out-of-range in cross_entropy: 1 of 10 targets lie outside [0, 10)")


def test_a_warning_that_the_program_makes_an_error() -> None:
    criterion = nn.CrossEntropyLoss()
    with pytest.raises(LossWarning, match="double-softmax"), losskit.watch(criterion):
        criterion(SOFT, CLASSES)
    # Nothing was left behind by the exception.
    assert torch.is_grad_enabled()
    assert criterion(scores(), CLASSES).requires_grad


def test_notes_warn_nobody() -> None:
    criterion = nn.CrossEntropyLoss()
    with losskit.watch(criterion) as watching:
        criterion(scores().log_softmax(1), CLASSES)
    assert watching.report.codes == ("log-softmax-twice",)


def test_nothing_of_the_graph_is_kept() -> None:
    criterion = nn.MSELoss()
    with losskit.watch(criterion, every=1):
        kept = []
        for _ in range(5):
            middle = torch.zeros(3, requires_grad=True) * 2
            loss = criterion(middle, torch.ones(3))
            loss.backward()
            kept += [weakref.ref(middle), weakref.ref(loss)]
        del middle, loss
        assert [each() for each in kept] == [None] * 10


def test_two_threads() -> None:
    criterion = nn.CrossEntropyLoss()
    other = nn.NLLLoss()
    errors: list[BaseException] = []

    def work(target: Any, input: Tensor) -> None:
        try:
            for _ in range(200):
                target(input, CLASSES)
        except BaseException as error:
            errors.append(error)

    def train() -> None:
        with losskit.watch(nn.ModuleList([criterion, other]), every=3) as watching:
            threads = [
                threading.Thread(target=work, args=(each, SOFT)) for each in (criterion, criterion, other, other)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [watched.calls.calls for _, watched in watching._watched] == [400, 400]
        assert sorted(watching.report.codes) == [
            "double-softmax",
            "no-gradient",
            "no-gradient",
            "not-log-probabilities",
        ]

    assert len(caught(train)) == 4
    assert errors == []


def test_what_torch_compile_took_into_a_graph() -> None:
    criterion = nn.CrossEntropyLoss()
    compiled = torch.compile(lambda x, y: criterion(x.softmax(1), y), backend="eager", fullgraph=True)
    whole = torch.compile(criterion, backend="eager", fullgraph=True)
    expected = F.cross_entropy(SOFT.softmax(1), CLASSES)
    with losskit.watch(criterion) as watching:
        assert torch.equal(compiled(SOFT, CLASSES), expected)
        assert torch.equal(whole(SOFT.softmax(1), CLASSES), expected)
    assert watching.report.codes == ()
    assert watching.report.notes == ("CrossEntropyLoss: torch.compile took its calls into a graph",)
    assert torch.equal(compiled(SOFT, CLASSES), expected)
    rooms._compiled.clear()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_and_traced() -> None:
    criterion, logits = nn.CrossEntropyLoss(), scores()
    expected = criterion(logits, CLASSES)
    with losskit.watch(criterion) as watching:
        assert torch.equal(torch.jit.script(criterion)(logits, CLASSES), expected)
        assert torch.equal(torch.jit.trace(criterion, (logits, CLASSES))(logits, CLASSES), expected)
    assert watching.report.findings == ()


# checks that need several calls ---------------------------------------------------------------------------------------


def training(criterion: nn.Module, calls: int, batch: Any, every: int = 1000, accumulate: int = 1) -> losskit.Report:
    """The report on so many calls with what `batch` gives, one optimizer step for each few."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossWarning)
        with losskit.watch(criterion, every=every) as watching:
            for number in range(calls):
                input, *rest = batch(number)
                criterion(input + parameter * 0, *rest).backward()
                if (number + 1) % accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    report: losskit.Report = watching.report
    return report


def words(report: losskit.Report) -> tuple[str, str, str, str, str]:
    (finding,) = report.findings
    assert report.notes == ()
    return finding.code, finding.severity, finding.seen, finding.why, finding.fix


def padded(number: int) -> tuple[Tensor, Tensor]:
    target = CLASSES.clone()
    target[2 + 4 * (number % 3) :] = -100
    return 0 * torch.eye(10), target


def test_means_of_micro_batches() -> None:
    report = training(nn.CrossEntropyLoss(), 12, padded, accumulate=3)
    assert words(report) == (
        "mean-of-means",
        "warning",
        "Under reduction='mean' between 2 and 10 losses count in a call, and 3.0 calls make one step of the optimizer.",
        "Each call has the same weight: a loss in the smallest counts 5 times as much as one in the largest. The sum "
        "of such gradients is not that of the whole batch.",
        "losskit.functional.cross_entropy(…, normalizer=losses_of_all_micro_batches)",
    )


def test_the_same_with_a_step_for_each_call() -> None:
    report = training(nn.CrossEntropyLoss(), 12, padded)
    assert words(report) == (
        "mean-of-means",
        "info",
        "Under reduction='mean' between 2 and 10 losses count in a call, and no gradients are accumulated.",
        "That is no fault as long as each call makes a step of its own. Accumulated, or averaged over ranks, a loss in "
        "the smallest call would count 5 times as much as one in the largest.",
        "losskit.functional.cross_entropy(…, normalizer=losses_of_all_micro_batches)",
    )


def test_the_fix_of_means_of_micro_batches() -> None:
    criterion = losskit.CrossEntropyLoss()

    class Normalised(nn.Module):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            loss: Tensor = criterion(input, target, normalizer=18)
            return loss

    assert training(Normalised(), 12, padded, accumulate=3).codes == ()
    # The gradient of the sum of such losses is that of the whole.
    input = torch.randn(3, 10, 10, requires_grad=True)
    targets = torch.stack([padded(number)[1] for number in range(3)])
    means = sum(F.cross_entropy(x, y) / 3 for x, y in zip(input, targets, strict=True))
    right = sum(losskit.functional.cross_entropy(x, y, normalizer=18) for x, y in zip(input, targets, strict=True))
    whole = F.cross_entropy(input.flatten(0, 1), targets.flatten())
    gradients = [torch.autograd.grad(each, input)[0] for each in (means, right, whole)]
    torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-5, atol=1e-8)
    assert float((gradients[0] - gradients[2]).norm() / gradients[2].norm()) > 0.5


def test_means_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from losskit.diagnosis.checks import normalisation

    monkeypatch.setattr(normalisation, "world_size", lambda: 4)
    code, severity, seen, *_ = words(training(nn.CrossEntropyLoss(), 12, padded))
    assert (code, severity) == ("mean-of-means", "warning")
    assert seen == (
        "Under reduction='mean' between 2 and 10 losses count in a call, and 4 ranks average their gradients."
    )


def test_batches_of_the_same_size_may_be_accumulated() -> None:
    report = training(nn.CrossEntropyLoss(), 12, lambda _: (0 * torch.eye(10), CLASSES), accumulate=3)
    assert report.codes == ()


def test_a_loss_without_a_graph() -> None:
    criterion = nn.CrossEntropyLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossWarning)
        with losskit.watch(criterion) as watching:
            for number in range(3):
                assert watching.report.codes == ()
                criterion(scores().detach() + number, CLASSES)
    assert words(watching.report) == (
        "no-gradient",
        "warning",
        "Autograd records, and input does not require a gradient in any of the first 3 calls: the loss is a number "
        "without a graph.",
        "backward raises an error, or, where this loss is added to others, passes it over: the model does not learn "
        "from it. An argmax, .detach(), .data, .item() or NumPy on the way cut the graph.",
        "the output of the model as it is; with torch.no_grad(): around what is only measured",
    )
    with losskit.watch(criterion) as watching, torch.no_grad():
        for _ in range(5):
            criterion(scores(), CLASSES)
    assert watching.report.codes == ()


def test_a_first_loss_that_is_too_large() -> None:
    report = training(nn.CrossEntropyLoss(), 3, lambda _: (40 * torch.eye(10), CLASSES.flip(0)))
    assert words(report) == (
        "first-loss",
        "warning",
        "The first loss is 40; a model that knows nothing of 10 classes costs log 10 = 2.303.",
        "The model starts out certain and wrong: inputs that are not scaled, or weights that are too large, spend the "
        "first epochs on being unlearned.",
        "inputs of mean 0 and variance 1, and a last layer with small weights",
    )


def test_a_first_loss_of_two_classes_is_too_large_a_nat_above_a_guess() -> None:
    target = torch.zeros(8, dtype=torch.int64)

    def codes(scale: float) -> tuple[str, ...]:
        return training(nn.CrossEntropyLoss(), 1, lambda _: (torch.tensor([[-scale, 0.0]] * 8), target)).codes

    # log(1 + e) = 1.31 and log(1 + e²) = 2.13, where a guess costs 0.69.
    assert codes(1.0) == ()
    assert codes(2.0) == ("first-loss",)


def test_a_first_loss_that_is_too_small() -> None:
    report = training(nn.NLLLoss(), 3, lambda _: ((3 * torch.eye(10)).log_softmax(1), CLASSES))
    assert words(report) == (
        "first-loss",
        "info",
        "The first loss is 0.3702; a model that knows nothing of 10 classes costs log 10 = 2.303.",
        "The model knows something already. That is no fault where it was trained before; where it was not, the target "
        "may be among its inputs.",
        "none, if it is trained",
    )


def plateau_words(report: losskit.Report) -> tuple[str, str]:
    code, severity, seen, why, fix = words(report)
    assert (code, severity) == ("plateau", "warning")
    assert fix == "another learning rate, and a look at what is between input and loss"
    return seen, why


def test_a_plateau_at_the_entropy_of_the_classes() -> None:
    target = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    prior = torch.tensor([0.5, 0.3, 0.2]).log().expand(10, 3)
    report = training(nn.CrossEntropyLoss(), 30, lambda _: (prior, target), every=10)
    assert plateau_words(report) == (
        "After 30 calls the loss is 1.03, and the entropy of the classes is 1.03.",
        "That is what always answering with their frequencies costs: the model has learned nothing from its input.",
    )


def test_a_plateau_at_the_variance() -> None:
    target = torch.linspace(-1, 1, 64)
    report = training(nn.MSELoss(), 30, lambda _: (torch.zeros(64), target), every=10)
    assert plateau_words(report) == (
        "After 30 calls the loss is 0.3439, and Var(target) is 0.3439.",
        "That is what always answering with the mean of the target costs: the model has learned nothing from its "
        "input.",
    )


def test_a_plateau_at_two_softmaxes() -> None:
    """Through one that the graph does not show, and that the values do not show, as they come out as the scores."""
    logits = (torch.eye(10) + 5).expand(10, 10)
    report = training(nn.CrossEntropyLoss(), 30, lambda _: (logits, CLASSES), every=10)
    assert "plateau" in report.codes
    found = next(finding for finding in report.findings if finding.code == "plateau")
    assert found.seen == "After 30 calls the loss is 1.461, and log(1 + 9/e) is 1.461."
    assert found.why == (
        "That is what a perfect answer that goes through a softmax twice costs: the model has learned nothing from its "
        "input."
    )


def test_a_plateau_at_the_margin() -> None:
    points = torch.randn(8, 4)
    # Not one point, whose gradient would be 0: as far from the right as from the wrong ones.
    batch = (points, points + 1, points - 1)
    report = training(nn.TripletMarginLoss(margin=2.0, eps=0.0), 30, lambda _: batch, every=10)
    assert plateau_words(report) == (
        "After 30 calls the loss is 2, and the margin is 2.",
        "That is what the same score, or the same point, for every input costs: the model has learned nothing from its "
        "input.",
    )


def test_classes_on_the_last_axis_in_three_calls() -> None:
    tags = torch.arange(30).reshape(3, 10) * 7 % 10
    perfect = 20 * F.one_hot(tags, 10).float()
    report = training(nn.CrossEntropyLoss(), 3, lambda number: (perfect[[number]], tags[[number]]))
    code, severity, seen, *_ = words(report)
    assert (code, severity) == ("class-axis", "error")
    assert seen.startswith("input has shape (1, 10, 10) and the classes are looked for on axis 1, where the loss of ")
    # One call of ten positions proves nothing.
    assert losskit.diagnose(nn.CrossEntropyLoss(), perfect[[0]], tags[[0]]).codes == ()


def test_an_ambiguous_axis_is_told_once_where_nothing_tells_which() -> None:
    tags = torch.arange(30).reshape(3, 10) * 7 % 10
    report = training(nn.CrossEntropyLoss(), 6, lambda _: (torch.zeros(3, 10, 10), tags))
    code, severity, seen, *_ = words(report)
    assert (code, severity) == ("class-axis", "warning")
    assert "do not tell which is meant" in seen
    # And not where the scores do.
    right = 20 * F.one_hot(tags, 10).float().transpose(1, 2)
    codes = training(nn.CrossEntropyLoss(), 6, lambda _: (right, tags)).codes
    assert "class-axis" not in codes


def test_a_gradient_that_is_not_finite() -> None:
    criterion = nn.MSELoss()
    start = torch.zeros(3, requires_grad=True)

    def train() -> None:
        with losskit.watch(criterion) as watching:
            criterion(start * 1, torch.zeros(3)).sqrt().backward()
        assert watching.report.codes == ("non-finite-gradient",)

    (warning,) = caught(train)
    assert str(warning.message).startswith("non-finite-gradient in mse_loss: The loss is finite, and the gradient")
    assert start.grad is not None
    assert bool(start.grad.isnan().all())


def test_a_gradient_that_is_0_and_a_loss_that_is_multiplied_by_0() -> None:
    criterion = nn.TripletMarginLoss()
    point = torch.zeros(4, 2, requires_grad=True)

    def train(factor: float) -> tuple[str, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LossWarning)
            with losskit.watch(criterion) as watching:
                (factor * criterion(point * 1, point * 1, point * 1)).backward()
        codes: tuple[str, ...] = watching.report.codes
        return codes

    assert train(1.0) == ("zero-gradient",)
    assert train(0.0) == ()
