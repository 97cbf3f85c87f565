"""The classes: modules like those of `torch.nn`, and in their place."""

import copy
import io
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import APART_CASES, CASES, REDUCTIONS, VARIANTS, Case
from torch import Tensor, nn

import losskit
from losskit.errors import LosskitError
from losskit.kernels import cpu

# Arguments of the constructors beyond reduction.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "l1_loss": [{}],
    "mse_loss": [{}],
    "smooth_l1_loss": [{}, {"beta": 0.25}],
    "huber_loss": [{}, {"delta": 2.0}],
    "binary_cross_entropy": [{}, {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])}],
    "binary_cross_entropy_with_logits": [
        {},
        {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])},
        {"pos_weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0]), "weight": torch.tensor([2.0])},
    ],
    "cross_entropy": [
        {},
        {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0]), "ignore_index": 2},
        {"label_smoothing": 0.2},
    ],
    "multi_margin_loss": [{}, {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0]), "p": 2, "margin": 0.5}],
    "multilabel_margin_loss": [{}],
    "multilabel_soft_margin_loss": [{}, {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])}],
    "cosine_embedding_loss": [{}, {"margin": 0.5}],
    "triplet_margin_loss": [{}, {"margin": 2.5, "p": 1.0, "eps": 1e-3, "swap": True}, {"p": 3.0}],
    "nll_loss": [{}, {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0]), "ignore_index": 2}],
    "soft_margin_loss": [{}],
    "hinge_embedding_loss": [{}, {"margin": 0.25}],
    "margin_ranking_loss": [{}, {"margin": 0.25}],
    "kl_div": [{}, {"log_target": True}],
    "poisson_nll_loss": [{}, {"full": True}, {"eps": 0.5, "full": True}],
    "gaussian_nll_loss": [{}, {"full": True}, {"eps": 0.5}],
    "ctc_loss": [{}, {"blank": 4, "zero_infinity": True}],
}

# Newer than PyTorch's old flags.
WITHOUT_FLAGS = ("huber_loss", "gaussian_nll_loss")

# One that holds a layer has tests of its own.
MODULE_CASES = (*CASES, *(case for case in APART_CASES if case.name in SETTINGS))
SETTINGS_OF_CASES = [
    pytest.param(case, kwargs, id="-".join([case.name, *kwargs]))
    for case in MODULE_CASES
    for kwargs in SETTINGS[case.name]
]


def pair(case: Case, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    return case.module(**kwargs), case.torch_module(**kwargs)


def loss_of(case: Case, criterion: nn.Module) -> Tensor:
    call = case.make("plain", (6, 5), torch.float32)
    return call.run(criterion)


def assert_same_loss(case: Case, one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(loss_of(case, one), loss_of(case, other), rtol=2e-6, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("case", "kwargs"), SETTINGS_OF_CASES)
class TestLikeTorch:
    def test_class_repr_and_loss(self, case: Case, kwargs: dict[str, Any], reduction: str) -> None:
        ours, theirs = pair(case, reduction=reduction, **kwargs)
        assert isinstance(ours, case.torch_module)
        assert repr(ours) == repr(theirs)
        assert ours.extra_repr() == theirs.extra_repr()
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
        assert not list(ours.parameters())
        assert_same_loss(case, ours, theirs)
        assert set(vars(theirs)) <= set(vars(ours))

    def test_state_dict_round_trip(self, case: Case, kwargs: dict[str, Any], reduction: str) -> None:
        ours, theirs = pair(case, reduction=reduction, **kwargs)
        blank = {
            name: torch.zeros_like(value) if isinstance(value, Tensor) else value for name, value in kwargs.items()
        }
        empty_ours, empty_theirs = pair(case, reduction=reduction, **blank)
        empty_ours.load_state_dict(theirs.state_dict())
        empty_theirs.load_state_dict(ours.state_dict())
        assert_same_loss(case, empty_ours, theirs)
        assert_same_loss(case, empty_theirs, theirs)

    def test_copies(self, case: Case, kwargs: dict[str, Any], reduction: str) -> None:
        ours, _ = pair(case, reduction=reduction, **kwargs)
        ours = case.module(reduction=reduction, on_empty="zero", backend="reference", **kwargs)
        buffer = io.BytesIO()
        torch.save(ours, buffer)
        buffer.seek(0)
        copies = [
            copy.copy(ours),
            copy.deepcopy(ours),
            pickle.loads(pickle.dumps(ours)),
            torch.load(buffer, weights_only=False),
        ]
        for made in copies:
            assert type(made) is type(ours)
            assert repr(made) == repr(ours)
            assert (made.on_empty, made.backend, made.out_dtype) == ("zero", "reference", None)
            assert torch.equal(loss_of(case, made), loss_of(case, ours))
        for name, tensor in ours.named_buffers():
            assert copies[1].get_buffer(name).data_ptr() != tensor.data_ptr()

    def test_positions(self, case: Case, kwargs: dict[str, Any], reduction: str) -> None:
        """Arguments by position, in torch's order."""
        theirs = case.torch_module(reduction=reduction, **kwargs)
        order = {
            "l1_loss": ("size_average", "reduce", "reduction"),
            "mse_loss": ("size_average", "reduce", "reduction"),
            "smooth_l1_loss": ("size_average", "reduce", "reduction", "beta"),
            "huber_loss": ("reduction", "delta"),
            "binary_cross_entropy": ("weight", "size_average", "reduce", "reduction"),
            "binary_cross_entropy_with_logits": ("weight", "size_average", "reduce", "reduction", "pos_weight"),
            "cross_entropy": ("weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"),
            "nll_loss": ("weight", "size_average", "ignore_index", "reduce", "reduction"),
            "multi_margin_loss": ("p", "margin", "weight", "size_average", "reduce", "reduction"),
            "multilabel_margin_loss": ("size_average", "reduce", "reduction"),
            "multilabel_soft_margin_loss": ("weight", "size_average", "reduce", "reduction"),
            "cosine_embedding_loss": ("margin", "size_average", "reduce", "reduction"),
            "triplet_margin_loss": ("margin", "p", "eps", "swap", "size_average", "reduce", "reduction"),
            "soft_margin_loss": ("size_average", "reduce", "reduction"),
            "hinge_embedding_loss": ("margin", "size_average", "reduce", "reduction"),
            "margin_ranking_loss": ("margin", "size_average", "reduce", "reduction"),
            "kl_div": ("size_average", "reduce", "reduction"),
            "poisson_nll_loss": ("log_input", "full", "size_average", "eps", "reduce", "reduction"),
            "ctc_loss": ("blank", "reduction", "zero_infinity"),
            # All its arguments are keywords.
            "gaussian_nll_loss": (),
        }[case.name]
        defaults = {"beta": 1.0, "delta": 1.0, "ignore_index": -100, "label_smoothing": 0.0, "log_input": True}
        defaults |= {"full": False, "eps": 1e-6 if case.name == "triplet_margin_loss" else 1e-8, "swap": False}
        defaults |= {"blank": 0, "zero_infinity": False}
        without_margin = ("margin_ranking_loss", "cosine_embedding_loss")
        defaults |= {"margin": 0.0 if case.name in without_margin else 1.0}
        defaults |= {"p": 1 if case.name == "multi_margin_loss" else 2.0}
        given = {**defaults, **kwargs, "reduction": reduction}
        rest = {name: value for name, value in {**kwargs, "reduction": reduction}.items() if name not in order}
        ours = case.module(*(given.get(name) for name in order), **rest)
        assert repr(ours) == repr(theirs)
        assert_same_loss(case, ours, theirs)


@pytest.mark.parametrize("case", MODULE_CASES, ids=repr)
def test_functions_take_positions_in_torch_order(case: Case) -> None:
    call = case.make("plain", (6, 5), torch.float32)
    weight = torch.rand(5) if case.classes else torch.rand(6, 5)
    positions: dict[str, tuple[Any, ...]] = {
        "l1_loss": (None, None, "sum", weight),
        "mse_loss": (None, None, "sum", weight),
        "smooth_l1_loss": (None, None, "sum", 0.25),
        "huber_loss": ("sum", 2.0, weight),
        "binary_cross_entropy": (weight, None, None, "sum"),
        "binary_cross_entropy_with_logits": (weight, None, None, "sum", torch.rand(5)),
        "cross_entropy": (weight, None, 1, None, "sum", 0.2),
        "nll_loss": (weight, None, 1, None, "sum"),
        "multi_margin_loss": (2, 0.5, torch.rand(5), None, None, "sum"),
        "multilabel_margin_loss": (None, None, "sum"),
        "multilabel_soft_margin_loss": (torch.rand(5), None, None, "sum"),
        "cosine_embedding_loss": (0.25, None, None, "sum"),
        "triplet_margin_loss": (2.5, 1.0, 1e-3, True, None, None, "sum"),
        "soft_margin_loss": (None, None, "sum"),
        "hinge_embedding_loss": (0.25, None, None, "sum"),
        "margin_ranking_loss": (0.25, None, None, "sum"),
        "kl_div": (None, None, "sum", True),
        "poisson_nll_loss": (True, True, None, 1e-8, None, "sum"),
        "gaussian_nll_loss": (True, 0.5, "sum"),
        "ctc_loss": (*call.kwargs.values(), 4, "sum", True),
    }
    arguments = positions[case.name]
    ours = case.function(*call.tensors, *arguments)
    torch.testing.assert_close(ours, case.torch_function(*call.tensors, *arguments), rtol=2e-6, atol=0)


@pytest.mark.parametrize("case", MODULE_CASES, ids=repr)
def test_dtype_and_device_moves(case: Case) -> None:
    for kwargs in SETTINGS[case.name]:
        ours, theirs = pair(case, **kwargs)
        for move in (lambda m: m.double(), lambda m: m.to(torch.bfloat16), lambda m: m.to("meta")):
            ours, theirs = move(ours), move(theirs)
            for (name, mine), (their_name, their) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
                assert name == their_name
                assert mine.dtype == their.dtype
                assert mine.device == their.device
    criterion, theirs = pair(case, **SETTINGS[case.name][-1])
    call = case.make("plain", (6, 5), torch.float64)
    expected = call.run(theirs.double())
    torch.testing.assert_close(call.run(criterion.double()), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("case", MODULE_CASES, ids=repr)
def test_settings_changed_after_construction(case: Case) -> None:
    for kwargs in SETTINGS[case.name]:
        ours, theirs = pair(case, **kwargs)
        for reduction in REDUCTIONS:
            ours.reduction = theirs.reduction = reduction
            assert_same_loss(case, ours, theirs)
        ours.reduction = "mean/sum"
        with pytest.raises(ValueError, match=r"reduction must be .*, got 'mean/sum'\."):
            loss_of(case, ours)
        ours.reduction, ours.backend = "mean", "triton"
        with pytest.raises(LosskitError, match="no Triton kernel"):
            loss_of(case, ours)


@pytest.mark.parametrize(
    ("flags", "reduction"),
    [
        ({"size_average": False}, "sum"),
        ({"size_average": True}, "mean"),
        ({"reduce": False}, "none"),
        ({"reduce": True}, "mean"),
        ({"size_average": False, "reduce": True}, "sum"),
        ({"size_average": True, "reduce": False}, "none"),
        ({"size_average": False, "reduce": False}, "none"),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", [case for case in CASES if case.name not in WITHOUT_FLAGS], ids=repr)
def test_legacy_flags(case: Case, flags: dict[str, bool], reduction: str) -> None:
    """They win over `reduction`, with a warning that says what to write."""
    other = "sum" if reduction == "mean" else "mean"
    with pytest.warns(UserWarning, match=f"reduction='{reduction}'"):
        ours = case.module(**flags, reduction=other)
    with pytest.warns(UserWarning, match="deprecated"):
        theirs = case.torch_module(**flags, reduction=other)
    assert ours.reduction == theirs.reduction == reduction
    assert_same_loss(case, ours, theirs)
    call = case.make("plain", (6, 5), torch.float32)
    with pytest.warns(UserWarning, match="deprecated") as seen:
        loss = case.function(call.input, call.target, **call.kwargs, **flags, reduction=other)
    message = f"size_average and reduce are deprecated: write reduction={reduction!r} instead."
    # It names the line of the call.
    (warning,) = seen
    assert str(warning.message) == message
    assert warning.filename == __file__
    assert torch.equal(loss, call.run(case.function, reduction=reduction))


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_options_of_a_batch_go_to_the_call(case: Case, variant: str) -> None:
    call = case.make(variant, (6, 5), torch.float32)
    if case.symmetric and "weight" in call.kwargs:
        # The weights of these losses belong to the function alone, as in torch.
        with pytest.raises(TypeError):
            case.module(**call.kwargs)
        return
    shape = case.loss_shape(call)
    options = {"mask": torch.arange(shape.numel()).reshape(shape) % 3 != 1, "sample_weight": torch.rand(shape)}
    data = {call.third} if call.third else set()
    settings = {name: value for name, value in call.kwargs.items() if name not in data}
    criterion = case.module(out_dtype=torch.float64, on_empty="zero", **settings)
    given = replace(call, kwargs={name: call.kwargs[name] for name in data})
    ours = given.run(criterion, **options)
    assert ours.dtype == torch.float64
    assert torch.equal(ours, call.run(case.function, out_dtype=torch.float64, on_empty="zero", **options))
    ours = given.run(criterion, normalizer=3.0)
    assert torch.equal(ours, call.run(case.function, out_dtype=torch.float64, normalizer=3.0))
    nothing = torch.zeros(shape, dtype=torch.bool)
    assert given.run(criterion, mask=nothing).item() == 0
    with pytest.raises(TypeError):
        case.module(sample_weight=options["sample_weight"])


def test_a_module_pickled_without_the_options_works() -> None:
    for case in MODULE_CASES:
        criterion = case.module()
        for name in ("on_empty", "out_dtype", "backend", "inplace_backward"):
            vars(criterion).pop(name, None)
        assert_same_loss(case, pickle.loads(pickle.dumps(criterion)), case.torch_module())


def test_inside_a_model() -> None:
    """Hooks, children and the state of a model that holds its criterion."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.criterion = losskit.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.criterion(self.layer(x), y)

    model = Model()
    seen: list[Tensor] = []
    model.criterion.register_forward_hook(lambda module, inputs, output: seen.append(output))
    loss = model(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    loss.backward()
    assert seen[0] is loss
    assert model.layer.weight.grad is not None
    assert "criterion.weight" in model.state_dict()
    clone = Model()
    clone.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(clone.criterion.weight, model.criterion.weight)


@pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
def test_inplace_backward_of_the_module() -> None:
    target = torch.tensor([0, 1, 2, 0, 1])
    logits, other = torch.randn(5, 3, requires_grad=True), None
    plain = losskit.CrossEntropyLoss()(logits, target)
    (other,) = torch.autograd.grad(plain, logits)
    hidden = logits * 1
    loss = losskit.CrossEntropyLoss(inplace_backward=True)(hidden, target)
    assert torch.equal(loss, plain)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, other)


def test_nll_loss_2d_is_nll_loss_with_a_warning() -> None:
    """As in PyTorch, whose class warns too."""
    weight = torch.tensor([0.5, 1.0, 2.0])
    with pytest.warns(FutureWarning, match="`NLLLoss2d` has been deprecated"):
        theirs = nn.NLLLoss2d(weight, None, 1, None, "sum")
    with pytest.warns(FutureWarning) as seen:
        ours = losskit.NLLLoss2d(weight, None, 1, None, "sum", on_empty="zero")
    (warning,) = seen
    assert str(warning.message) == "NLLLoss2d is deprecated: NLLLoss takes the same."
    assert warning.filename == __file__
    assert isinstance(ours, (losskit.NLLLoss, nn.NLLLoss2d))
    assert isinstance(ours, nn.NLLLoss2d)
    assert repr(ours) == repr(theirs)
    assert ours.on_empty == "zero"
    log_probs = torch.randn(2, 3, 4, 5).log_softmax(1)
    target = torch.randint(3, (2, 4, 5))
    torch.testing.assert_close(ours(log_probs, target), theirs(log_probs, target), rtol=2e-6, atol=0)
    assert repr(pickle.loads(pickle.dumps(ours))) == repr(ours)
