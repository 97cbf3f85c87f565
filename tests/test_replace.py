"""losskit's losses in the place of PyTorch's, and PyTorch's back again."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from fresh_process import output_of
from torch import Tensor, nn

import losskit
from losskit import functional, modules
from losskit.catalog import LOSSES
from losskit.replace import CLASSES, FUNCTIONS

# As a program has them: by name, before anything is replaced.
IMPORTED = {name: getattr(F, name) for name in FUNCTIONS if hasattr(F, name)} | {
    name: getattr(nn, name) for name in CLASSES if hasattr(nn, name)
}
# What PyTorch has of ours.
THEIR_FUNCTIONS = [name for name in FUNCTIONS if name in IMPORTED]
THEIR_CLASSES = [name for name in CLASSES if name in IMPORTED]


def torch_losses() -> dict[tuple[str, str], int]:
    """Where every module of the program holds which object."""
    return {
        (module_name, name): id(value)
        for module_name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType)
        for name, value in list(vars(module).items())
        if name in IMPORTED
    }


@pytest.fixture(autouse=True)
def unchanged_afterwards() -> Iterator[None]:
    before = torch_losses()
    yield
    after = torch_losses()
    # Modules may have been imported meanwhile, and the test's own are gone.
    assert {key: after[key] for key in before if key in after} == {key: before[key] for key in before if key in after}


@pytest.fixture
def program() -> Iterator[Any]:
    """A module of a user that imported names of torch's losses."""
    module: Any = types.ModuleType("a_program_of_a_user")
    exec(
        "import torch.nn as nn\n"
        "import torch.nn.functional as F\n"
        "from torch.nn import CrossEntropyLoss, MSELoss as Criterion\n"
        "from torch.nn.functional import cross_entropy\n"
        "from torch.nn.functional import mse_loss as distance\n"
        "def step(input, target):\n"
        "    return cross_entropy(input, target) + distance(input, input + 1) + nn.L1Loss()(input, -input)\n",
        module.__dict__,
    )
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_every_loss_is_replaced() -> None:
    assert set(FUNCTIONS) == {info.name for info in LOSSES}
    # A class for each function, and one that PyTorch has under an older name too.
    assert len(CLASSES) == len(FUNCTIONS) + 1
    assert {info.name for info in LOSSES if info.in_torch} == set(THEIR_FUNCTIONS)
    with losskit.replace_torch_losses():
        for name in THEIR_FUNCTIONS:
            assert getattr(F, name) is getattr(functional, name)
        for name in THEIR_CLASSES:
            assert getattr(nn, name) is getattr(modules, name)
            assert getattr(torch.nn.modules.loss, name) is getattr(modules, name)
    for name in THEIR_FUNCTIONS:
        assert getattr(F, name) is IMPORTED[name]
    for name in THEIR_CLASSES:
        assert getattr(nn, name) is IMPORTED[name]


def test_as_a_function() -> None:
    replacement = losskit.replace_torch_losses()
    assert F.cross_entropy is functional.cross_entropy
    replacement.restore()
    assert F.cross_entropy is IMPORTED["cross_entropy"]


def test_repr_counts_the_names() -> None:
    replacement = losskit.replace_torch_losses()
    try:
        text = repr(replacement)
        count = int(text.split(":")[1].split()[0])
        assert count >= len(THEIR_FUNCTIONS) + 2 * len(THEIR_CLASSES)
        assert text == f"<replace_torch_losses: {count} names of torch's losses replaced>"
    finally:
        replacement.restore()
    assert repr(replacement) == "<replace_torch_losses: 0 names of torch's losses replaced>"


def test_names_that_were_imported_earlier(program: Any) -> None:
    before = dict(vars(program))
    with losskit.replace_torch_losses():
        assert program.cross_entropy is functional.cross_entropy
        assert program.distance is functional.mse_loss
        assert program.CrossEntropyLoss is modules.CrossEntropyLoss
        assert program.Criterion is modules.MSELoss
        assert program.F.huber_loss is functional.huber_loss
        # Names that stay.
        assert program.F is F
        assert program.nn is nn
    for name, value in before.items():
        assert vars(program)[name] is value


def test_a_program_computes_the_same(program: Any) -> None:
    torch.manual_seed(0)
    input, target = torch.randn(8, 5), torch.randint(5, (8,))
    expected = program.step(input, target)
    with losskit.replace_torch_losses():
        torch.testing.assert_close(program.step(input, target), expected)
        assert losskit.explain_dispatch(program.step, input, target).backend in ("cpu", "reference")
    with pytest.raises(ValueError, match="ran no loss of losskit"):
        losskit.explain_dispatch(program.step, input, target)


def arguments(name: str) -> tuple[Any, ...]:
    """The tensors of a call of this function or criterion without options."""
    torch.manual_seed(0)
    if name in ("CTCLoss", "ctc_loss"):
        return torch.rand(6, 2, 4).log_softmax(2), torch.tensor([[1, 2], [3, 1]]), (6, 5), (2, 1)
    if name == "linear_cross_entropy":
        return torch.rand(6, 4), torch.rand(3, 4), torch.randint(3, (6,))
    if name in ("TripletMarginWithDistanceLoss", "triplet_margin_with_distance_loss"):
        return torch.rand(6, 4), torch.rand(6, 4), torch.rand(6, 4)
    if name in ("LinearCrossEntropyLoss", "NLLLoss2d"):
        return torch.rand(6, 4), torch.randint(3, (6,))
    case = next(case for case in CASES if name in (case.name, case.torch_module.__name__))
    return case.make("plain", (6, 4), torch.float32).tensors


def made(name: str, **options: Any) -> nn.Module:
    """A criterion of the class that now has this name; one kind holds a layer that begins at random."""
    torch.manual_seed(1)
    sizes = {"LinearCrossEntropyLoss": (4, 3)}.get(name, ())
    return getattr(nn, name)(*sizes, **options)


@pytest.mark.filterwarnings("ignore:.*NLLLoss2d:FutureWarning")
@pytest.mark.parametrize("name", THEIR_CLASSES)
def test_a_criterion_that_exists_already_computes_with_ours(name: str) -> None:
    criterion = made(name, reduction="sum")
    given = arguments(name)
    expected = criterion(*given)
    with losskit.replace_torch_losses():
        assert losskit.explain_dispatch(criterion, *given).backend in ("cpu", "reference")
        torch.testing.assert_close(criterion(*given), expected)
        assert type(criterion) is IMPORTED[name]
    assert torch.equal(criterion(*given), expected)


@pytest.mark.filterwarnings("ignore:.*NLLLoss2d:FutureWarning")
@pytest.mark.parametrize("name", THEIR_CLASSES)
def test_a_criterion_made_inside_outlives_the_replacement(name: str) -> None:
    given = arguments(name)
    expected = made(name)(*given)
    with losskit.replace_torch_losses():
        criterion = made(name)
        torch.testing.assert_close(criterion(*given), expected)
    torch.testing.assert_close(criterion(*given), expected)


@pytest.mark.parametrize("name", THEIR_FUNCTIONS)
def test_the_definitions_work_inside(name: str) -> None:
    """binary_cross_entropy's is torch's own operator, which must not be ours."""
    torch.manual_seed(0)
    input, *rest = arguments(name)
    input.requires_grad_(True)
    ours = getattr(functional, name)
    expected = ours(input, *rest, backend="reference")
    with losskit.replace_torch_losses():
        assert torch.equal(ours(input, *rest, backend="reference"), expected)
        (first,) = torch.autograd.grad(getattr(F, name)(input, *rest), input, create_graph=True)
        if first.requires_grad:
            first.square().sum().backward()


def test_nested() -> None:
    with losskit.replace_torch_losses() as outer:
        with losskit.replace_torch_losses() as inner:
            assert F.mse_loss is functional.mse_loss
            assert repr(inner) == "<replace_torch_losses: 0 names of torch's losses replaced>"
        assert F.mse_loss is functional.mse_loss
        assert ": 0 names" not in repr(outer)
    assert F.mse_loss is IMPORTED["mse_loss"]


def test_the_outer_one_restored_first() -> None:
    outer = losskit.replace_torch_losses()
    inner = losskit.replace_torch_losses()
    outer.restore()
    inner.restore()
    assert F.mse_loss is IMPORTED["mse_loss"]


def test_after_an_exception() -> None:
    def fail() -> None:
        assert F.mse_loss is functional.mse_loss
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), losskit.replace_torch_losses():
        fail()
    assert F.mse_loss is IMPORTED["mse_loss"]


def test_after_an_exception_inside_a_loss() -> None:
    with pytest.raises(IndexError), losskit.replace_torch_losses():
        F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 9]))
    assert F.cross_entropy is IMPORTED["cross_entropy"]


def test_restored_twice() -> None:
    first = losskit.replace_torch_losses()
    first.restore()
    with losskit.replace_torch_losses():
        first.restore()
        assert F.mse_loss is functional.mse_loss
    assert F.mse_loss is IMPORTED["mse_loss"]


def test_a_name_that_was_changed_meanwhile_is_left(program: Any) -> None:
    def mine(input: Tensor, target: Tensor) -> Tensor:
        return input - target

    with losskit.replace_torch_losses():
        program.distance = mine
        del program.cross_entropy
    assert program.distance is mine
    assert not hasattr(program, "cross_entropy")
    assert program.Criterion is IMPORTED["MSELoss"]


def test_functions_of_the_same_name_that_are_not_torchs_are_left(program: Any) -> None:
    def cross_entropy(input: Tensor, target: Tensor) -> Tensor:
        return input - target

    program.cross_entropy = cross_entropy
    with losskit.replace_torch_losses():
        assert program.cross_entropy is cross_entropy


def test_a_module_that_removes_itself_meanwhile(program: Any) -> None:
    with losskit.replace_torch_losses():
        del sys.modules[program.__name__]
        sys.modules[program.__name__] = program
        module = sys.modules.pop(program.__name__)
        try:
            assert module.cross_entropy is functional.cross_entropy
        finally:
            after = module
    sys.modules[program.__name__] = after
    # The replacement knows the namespace, wherever it is found.
    assert program.cross_entropy is IMPORTED["cross_entropy"]


def test_things_in_sys_modules_that_are_not_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy:
        """Looks everything up, and must not be asked."""

        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            if name == "__dict__":
                raise AttributeError(name)
            raise RuntimeError(f"asked for {name}")

    monkeypatch.setitem(sys.modules, "a_lazy_thing", Lazy())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "a_blocked_import", None)  # type: ignore[arg-type]
    with losskit.replace_torch_losses():
        assert F.mse_loss is functional.mse_loss


def test_another_thread_sees_it() -> None:
    seen: list[Any] = []
    with losskit.replace_torch_losses():
        thread = threading.Thread(target=lambda: seen.append(F.mse_loss))
        thread.start()
        thread.join(30)
    assert seen == [functional.mse_loss]


def test_threads_that_replace_at_once() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                with losskit.replace_torch_losses():
                    F.mse_loss(torch.ones(2), torch.zeros(2))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert F.mse_loss is IMPORTED["mse_loss"]


def test_training_inside() -> None:
    def losses(replace: bool) -> list[float]:
        torch.manual_seed(0)
        model, criterion = nn.Linear(6, 4), nn.CrossEntropyLoss(label_smoothing=0.1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        input, target = torch.randn(32, 6), torch.randint(4, (32,))
        result = []
        replacement = losskit.replace_torch_losses() if replace else None
        for _ in range(10):
            optimizer.zero_grad()
            loss = criterion(model(input), target)
            loss.backward()
            optimizer.step()
            result.append(float(loss.detach()))
        if replacement is not None:
            replacement.restore()
        return result

    torch.testing.assert_close(losses(True), losses(False), rtol=1e-6, atol=0.0)


def test_compiled_inside() -> None:
    """In a process of its own: the compiler stays loaded."""
    code = """
        import torch, torch.nn.functional as F, losskit

        def step(x, t):
            return F.cross_entropy(x, t) + F.mse_loss(x, x + 1, reduction="sum")

        x, t = torch.randn(6, 4, requires_grad=True), torch.randint(4, (6,))
        expected = step(x, t)
        original = F.cross_entropy
        with losskit.replace_torch_losses():
            compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
            inside = compiled(x, t)
            inside.backward()
        torch.testing.assert_close(inside, expected)
        assert F.cross_entropy is original
        # The names are others now, so it is compiled anew.
        torch.testing.assert_close(compiled(x, t), expected)
        print("same")
    """
    assert output_of(code, timeout=200) == "same"
