"""Losses of several tensors, one value per element: shapes, dtypes and corners that the list of cases leaves out."""

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as T
from assertions import assert_as_exact
from torch import Tensor

import losskit
from losskit import functional as F
from losskit.errors import EmptyLossError
from losskit.kernels import cpu

needs_kernels = pytest.mark.skipif(not cpu.available(), reason=cpu.unavailable_reason())
BACKENDS = ["auto", "reference", pytest.param("cpu", marks=needs_kernels)]
each_backend = pytest.mark.parametrize("backend", BACKENDS)

INF, NAN = math.inf, math.nan


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def positive(*shape: int, seed: int = 1) -> Tensor:
    return 0.2 + torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape: int, seed: int = 2) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)) - 1


def assert_like_torch(name: str, tensors: list[Tensor], backend: str, **options: Any) -> None:
    """Value and gradients, for every reduction, by the input and the variance."""
    places = (0, 2) if name == "gaussian_nll_loss" else (0,)
    for reduction in ("none", "mean", "sum"):
        results = []
        for module, own in ((F, {"backend": backend}), (T, {})):
            leaves = [
                tensor.detach().clone().requires_grad_(tensor.is_floating_point() and place in places)
                for place, tensor in enumerate(tensors)
            ]
            loss = getattr(module, name)(*leaves, reduction=reduction, **options, **own)
            upstream = torch.linspace(-1, 1, max(loss.numel(), 1)).reshape(loss.shape).to(loss.dtype)
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            results.append((loss, torch.autograd.grad(loss, wanted, upstream)))
        (ours, our_gradients), (theirs, their_gradients) = results
        assert ours.dtype == theirs.dtype
        assert_as_exact(ours, theirs.double(), steps=32)
        for mine, other in zip(our_gradients, their_gradients, strict=True):
            assert mine.dtype == other.dtype
            assert_as_exact(mine, other.double(), steps=32)


# shapes and dtypes ----------------------------------------------------------------------------------------------------

WAYS = [((4, 5), (5,)), ((4, 5), ()), ((4, 5), (1, 5)), ((4, 5), (4, 1)), ((2, 4, 5), (4, 1))]
BOTH_WAYS = [*WAYS, *((other, one) for one, other in WAYS), ((4, 1), (1, 5))]


@each_backend
@pytest.mark.parametrize(("shape", "other"), BOTH_WAYS, ids=str)
def test_broadcasting(shape: tuple[int, ...], other: tuple[int, ...], backend: str) -> None:
    """In silence, as torch, and by the kernel too."""
    assert_like_torch("hinge_embedding_loss", [numbers(*shape), signs(*other)], backend)
    assert_like_torch("kl_div", [numbers(*shape), positive(*other)], backend)
    assert_like_torch("kl_div", [numbers(*shape), numbers(*other)], backend, log_target=True)
    assert_like_torch("poisson_nll_loss", [numbers(*shape), positive(*other)], backend, full=True)
    assert_like_torch("gaussian_nll_loss", [numbers(*shape), numbers(*other), positive(*shape)], backend)
    if (shape, other) in WAYS:
        assert_like_torch("soft_margin_loss", [numbers(*shape), signs(*other)], backend)
    if len(shape) == len(other):
        ones = (1,) * len(shape)
        assert_like_torch("margin_ranking_loss", [numbers(*shape), numbers(*other, seed=5), signs(*ones)], backend)


@each_backend
@pytest.mark.parametrize("shape", [(4, 5), (4, 1), (4,), (1, 5)], ids=str)
@pytest.mark.parametrize("full", [False, True])
def test_shapes_of_the_variance(shape: tuple[int, ...], full: bool, backend: str) -> None:
    assert_like_torch("gaussian_nll_loss", [numbers(4, 5), numbers(4, 5, seed=3), positive(*shape)], backend, full=full)
    by_module = losskit.GaussianNLLLoss(full=full, backend=backend)(numbers(4, 5), numbers(5), positive(*shape))
    assert_as_exact(by_module, T.gaussian_nll_loss(numbers(4, 5), numbers(5), positive(*shape), full=full).double())


@each_backend
@pytest.mark.parametrize("var", [0.5, 0.0, 3e-7])
def test_one_float_for_every_variance(var: float, backend: str) -> None:
    ours = F.gaussian_nll_loss(numbers(4, 5), numbers(4, 5, seed=3), var, backend=backend)
    assert_as_exact(ours, T.gaussian_nll_loss(numbers(4, 5).double(), numbers(4, 5, seed=3), var))


@pytest.mark.parametrize("name", ["soft_margin_loss", "hinge_embedding_loss"])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.int8, torch.bool, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_labels_of_another_dtype(name: str, kind: torch.dtype, dtype: torch.dtype) -> None:
    """The result has the dtype of input."""
    if name == "soft_margin_loss" and kind == torch.bool:
        # Torch takes them forward and not backward; here they are 0 and 1.
        ours = F.soft_margin_loss(numbers(4, 5).to(dtype), signs(4, 5).to(kind))
        assert torch.equal(ours, F.soft_margin_loss(numbers(4, 5).to(dtype), signs(4, 5).to(kind).to(dtype)))
        return
    assert_like_torch(name, [numbers(4, 5).to(dtype), signs(4, 5).to(kind)], "auto")


@needs_kernels
@pytest.mark.parametrize("name", ["soft_margin_loss", "hinge_embedding_loss", "poisson_nll_loss"])
@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_integers_run_in_the_kernel(name: str, kind: torch.dtype) -> None:
    call = (getattr(F, name), numbers(4, 5), torch.ones(4, 5).to(kind))
    assert losskit.explain_dispatch(*call).backend == "cpu"


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.int64])
def test_promotion(kind: torch.dtype) -> None:
    # Stirling's term has the precision of the counts for torch.
    full = kind != torch.bfloat16
    assert_like_torch("poisson_nll_loss", [numbers(4, 5), 3 * torch.ones(4, 5, dtype=kind)], "auto", full=full)
    assert_like_torch("gaussian_nll_loss", [numbers(4, 5), torch.ones(4, 5, dtype=kind), positive(4, 5)], "auto")
    target = torch.ones(4, 5, dtype=kind)
    ours = F.margin_ranking_loss(numbers(4, 5), numbers(4, 5, seed=4), target)
    theirs = T.margin_ranking_loss(numbers(4, 5), numbers(4, 5, seed=4), target)
    assert ours.dtype == theirs.dtype
    assert_as_exact(ours, theirs.double())


def test_integers_alone() -> None:
    """Computed in the default dtype."""
    one, two = torch.arange(5), torch.tensor([3, 1, 4, 1, 5])
    for name, more in (("margin_ranking_loss", [torch.ones(5, dtype=torch.int64)]), ("poisson_nll_loss", [])):
        ours, theirs = getattr(F, name)(one, two, *more), getattr(T, name)(one, two, *more)
        assert ours.dtype == theirs.dtype == torch.float32
        assert_as_exact(ours, theirs.double())
    ours, theirs = F.gaussian_nll_loss(one, two, 0.5), T.gaussian_nll_loss(one, two, 0.5)
    assert ours.dtype == theirs.dtype == torch.float32
    assert_as_exact(ours, theirs.double())


# the corners of each formula ------------------------------------------------------------------------------------------


@each_backend
def test_hinge_of_a_label_that_is_neither(backend: str) -> None:
    input, target = torch.tensor([0.25, 0.25, -0.5, 3.0]), torch.tensor([0.0, 0.5, 2.0, NAN])
    assert_like_torch("hinge_embedding_loss", [input, target], backend)
    # Both terms: x + max(0, 1 − x).
    losses = F.hinge_embedding_loss(input, target, reduction="none", backend=backend)
    assert losses.tolist() == [1.0, 1.0, 1.0, 3.0]


@each_backend
def test_slope_at_the_corner(backend: str) -> None:
    """Where max(0, t) bends it is that of t."""
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    F.hinge_embedding_loss(x, torch.tensor([-1.0, -1.0]), reduction="sum", backend=backend).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, -1.0]
    x.grad = None
    y = torch.tensor([0.5, 1.5], requires_grad=True)
    F.margin_ranking_loss(x, y, torch.tensor([1.0, -1.0]), 0.5, reduction="sum", backend=backend).backward()
    assert x.grad.tolist() == [-1.0, 1.0]
    assert y.grad is not None
    assert y.grad.tolist() == [1.0, -1.0]


@each_backend
def test_soft_margin_does_not_overflow(backend: str) -> None:
    """Torch computes exp(−y·x) first: its loss is inf from 89 on, and its derivative NaN."""
    x = torch.tensor([200.0, -200.0, 3e38, 17.0], requires_grad=True)
    loss = F.soft_margin_loss(x, torch.tensor([-1.0, -1.0, -1.0, -1.0]), reduction="none", backend=backend)
    exact = torch.tensor([200.0, 0.0, 3e38, math.log1p(math.exp(17))], dtype=torch.float64)
    assert_as_exact(loss[[0, 1, 3]], exact[[0, 1, 3]])
    assert float(loss[2].detach()) == float(torch.tensor(3e38))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert_as_exact(gradient, torch.tensor([1.0, 0.0, 1.0, 1 / (1 + math.exp(-17))], dtype=torch.float64))


def test_hessian_of_soft_margin() -> None:
    """y²·σ(−y·x)·σ(y·x), in the mean; torch has none."""
    x, y = numbers(6).double(), signs(6).double()
    found = torch.func.hessian(lambda x: F.soft_margin_loss(x, y))(x)
    expected = torch.diag(torch.sigmoid(-y * x) * torch.sigmoid(y * x)) / 6
    assert_as_exact(found, expected)
    leaf = x.float().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.soft_margin_loss(leaf, y.float(), reduction="sum"), leaf, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), leaf)
    assert_as_exact(second, 6 * expected.diag(), steps=8)


def test_gradient_of_soft_margin_by_the_labels() -> None:
    """Which torch refuses."""
    x, y = numbers(6).double(), signs(6).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda y: F.soft_margin_loss(x, y), [y])


@each_backend
def test_kl_of_zero_probabilities(backend: str) -> None:
    """0·(log 0 − x) is 0, for any x; torch has NaN for x = −inf. A negative y or a NaN is NaN."""
    x = torch.tensor([-1.0, -INF, -INF, NAN, -1.0], requires_grad=True)
    y = torch.tensor([0.0, 0.0, 0.5, 0.0, -0.5])
    loss = F.kl_div(x, y, reduction="none", backend=backend)
    assert_as_exact(loss, torch.tensor([0.0, 0.0, INF, NAN, NAN], dtype=torch.float64))
    assert torch.autograd.grad(loss.sum(), x)[0].tolist() == [0.0, 0.0, -0.5, 0.0, 0.5]
    log_y = torch.tensor([-INF, -INF, 0.0, -INF, NAN], requires_grad=True)
    loss = F.kl_div(x, log_y, reduction="none", log_target=True, backend=backend)
    assert_as_exact(loss, torch.tensor([0.0, 0.0, INF, NAN, NAN], dtype=torch.float64))
    by_x, by_y = torch.autograd.grad(loss.sum(), [x, log_y])
    assert torch.equal(by_x[:4], torch.tensor([0.0, 0.0, -1.0, 0.0]))
    assert torch.equal(by_y[:3], torch.tensor([0.0, 0.0, INF]))


@each_backend
def test_no_derivative_of_kl_at_a_probability_of_zero(backend: str) -> None:
    y = torch.tensor([0.0, 0.5], requires_grad=True)
    loss = F.kl_div(torch.tensor([-1.0, -1.0]), y, reduction="sum", backend=backend)
    (ours,) = torch.autograd.grad(loss, y)
    (theirs,) = torch.autograd.grad(T.kl_div(torch.tensor([-1.0, -1.0]), y, reduction="sum"), y)
    assert_as_exact(ours, theirs.double())


@each_backend
def test_poisson_of_nothing(backend: str) -> None:
    """A count of 0 where the rate is 0 costs nothing; torch has NaN for a log-rate of −inf."""
    x, y = torch.tensor([-INF, -INF, 0.0, 100.0], requires_grad=True), torch.tensor([0.0, 1.0, 0.0, 0.0])
    loss = F.poisson_nll_loss(x, y, reduction="none", backend=backend)
    assert_as_exact(loss, torch.tensor([0.0, INF, 1.0, INF], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert_as_exact(gradient, torch.tensor([0.0, -1.0, 1.0, INF], dtype=torch.float64))
    rates = torch.tensor([0.0, 0.0, -1.0, 2.0], requires_grad=True)
    options: dict[str, Any] = {"log_input": False, "eps": 0.0, "reduction": "none", "backend": backend}
    loss = F.poisson_nll_loss(rates, y, **options)
    assert_as_exact(loss, torch.tensor([0.0, INF, NAN, 2.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss[:2].sum(), rates)
    assert torch.equal(gradient[:2], torch.tensor([1.0, -INF]))


@each_backend
def test_exponentials_to_the_end_of_the_format(backend: str) -> None:
    x = torch.cat([torch.linspace(-90, 89.5, 4001), torch.tensor([88.7228, 88.72284, 1e30, -1e30])])
    ours = F.poisson_nll_loss(x, torch.zeros_like(x), reduction="none", backend=backend)
    exact = x.double().exp()
    normal = (exact > 1.2e-38) & (exact < 3.4e38)
    error = ((ours.double() - exact) / exact)[normal].abs().max()
    assert float(error) <= 2 * torch.finfo(torch.float32).eps
    assert torch.equal(ours[exact > 3.5e38], torch.full_like(ours[exact > 3.5e38], INF))
    assert float(ours[exact < 1.1e-38].max()) <= 1.2e-38


@each_backend
def test_stirling_begins_above_one(backend: str) -> None:
    y = torch.tensor([0.0, 0.5, 1.0, 1.0000001, 2.0, 50.0])
    ours = F.poisson_nll_loss(torch.zeros(6), y, full=True, reduction="none", backend=backend)
    exact = T.poisson_nll_loss(torch.zeros(6).double(), y.double(), full=True, reduction="none")
    assert_as_exact(ours, exact)
    # Where it is left out it has no slope either: torch's is NaN at 0.
    leaf = y.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.poisson_nll_loss(torch.zeros(6).double(), leaf, full=True).sum(), leaf)
    assert gradient[:3].tolist() == [0.0, 0.0, 0.0]
    assert bool((gradient[3:] > 0).all())


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_variance_below_eps_keeps_its_gradient(dtype: torch.dtype, backend: str) -> None:
    """As for torch: eps stands in the value and in the derivative, and the derivative is not cut off."""
    tensors = [torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4), torch.tensor([0.0, 0.03, 0.25, 2.0])]
    assert_like_torch("gaussian_nll_loss", [tensor.to(dtype) for tensor in tensors], backend, eps=0.25)


def test_second_derivatives_below_eps() -> None:
    found = []
    for module in (F, T):
        x, v = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0.0, 2.0], requires_grad=True)
        loss = module.gaussian_nll_loss(x, torch.zeros(2), v, eps=0.25, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, v, create_graph=True)
        found.append(torch.stack(torch.autograd.grad(gradient.sum(), [x, v])))
    assert_as_exact(found[0], found[1].double(), steps=16)


@each_backend
def test_infinite_and_nan_variance(backend: str) -> None:
    tensors = [torch.ones(3), torch.zeros(3), torch.tensor([INF, NAN, 1.0])]
    ours = F.gaussian_nll_loss(*tensors, reduction="none", backend=backend)
    assert_as_exact(ours, T.gaussian_nll_loss(*tensors, reduction="none").double())


@each_backend
def test_a_negative_variance_under_the_mask(backend: str) -> None:
    var, mask = torch.tensor([-1.0, 1.0, NAN]), torch.tensor([False, True, False])
    loss = F.gaussian_nll_loss(torch.ones(3), torch.zeros(3), var, mask=mask, backend=backend)
    assert loss.item() == 0.5


# batchmean ------------------------------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("shape", [(4, 5), (7,), (), (2, 3, 4), (3, 0), (0, 5), (1, 1)], ids=str)
def test_batchmean(shape: tuple[int, ...], backend: str) -> None:
    input, target = numbers(*shape), positive(*shape)
    for log_target in (False, True):
        leaves = [input.clone().requires_grad_(True) for _ in range(2)]
        options: dict[str, Any] = {"reduction": "batchmean", "log_target": log_target}
        ours, theirs = F.kl_div(leaves[0], target, **options, backend=backend), T.kl_div(leaves[1], target, **options)
        assert_as_exact(ours, theirs.double(), steps=16)
        upstream = torch.tensor(-0.7)
        (our,), (their,) = (
            torch.autograd.grad(ours, leaves[0], upstream),
            torch.autograd.grad(theirs, leaves[1], upstream),
        )
        assert_as_exact(our, their.double(), steps=8)
        module = losskit.KLDivLoss(**options, backend=backend)
        assert repr(module) == repr(torch.nn.KLDivLoss(**options))
        assert_as_exact(module(input, target), theirs.double(), steps=16)


@each_backend
def test_batchmean_where_the_target_enlarges(backend: str) -> None:
    """Torch divides by the rows of input, whatever the shape of the losses is."""
    ours = F.kl_div(numbers(5), positive(4, 5), reduction="batchmean", backend=backend)
    assert_as_exact(ours, T.kl_div(numbers(5), positive(4, 5), reduction="batchmean").double())


@each_backend
def test_batchmean_with_options(backend: str) -> None:
    """A masked row is one row less, a row of weight 2 is two, and the normalizer stands for the divisor."""
    input, target = numbers(4, 5), positive(4, 5)
    given: dict[str, Any] = {"reduction": "batchmean", "backend": backend}
    rows = torch.tensor([True, False, True, True])
    masked = F.kl_div(input, target, mask=rows[:, None], **given)
    assert_as_exact(masked, T.kl_div(input[rows], target[rows], reduction="batchmean").double(), steps=8)
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0])[:, None]
    weighted = F.kl_div(input, target, sample_weight=weights, **given)
    again = [0, 0, 2, 3]
    assert_as_exact(weighted, T.kl_div(input[again], target[again], reduction="batchmean").double(), steps=8)
    total = T.kl_div(input, target, reduction="sum").double()
    assert_as_exact(F.kl_div(input, target, normalizer=2.5, **given), total / 2.5, steps=8)
    assert_as_exact(F.kl_div(input, target, on_empty="zero", **given), total / 4, steps=8)
    nothing = torch.zeros(4, 5, dtype=torch.bool)
    assert F.kl_div(input, target, mask=nothing, **given).isnan()
    assert F.kl_div(input, target, mask=nothing, on_empty="zero", **given).item() == 0
    with pytest.raises(EmptyLossError):
        F.kl_div(input, target, mask=nothing, on_empty="raise", **given)


def test_batchmean_in_a_traced_graph_of_any_size() -> None:
    compiled = torch.compile(
        lambda x, y: F.kl_div(x, y, reduction="batchmean"), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (4, 7, 9):
        x, y = numbers(rows, 5), positive(rows, 5)
        assert_as_exact(compiled(x, y), T.kl_div(x, y, reduction="batchmean").double(), steps=8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"reduction": "mean"}, True), ({"reduction": "sum"}, False), ({"reduction": "batchmean"}, False)],
    ids=str,
)
def test_the_mean_of_kl_warns(options: dict[str, Any], expected: bool) -> None:
    """As for torch; at the line of the call."""
    for function in (F.kl_div, T.kl_div):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            function(numbers(4, 5), positive(4, 5), **options)
        assert [warning.filename for warning in seen] == [__file__] * expected
        if expected and function is F.kl_div:
            assert str(seen[0].message) == (
                "kl_div: reduction='mean' divides by the number of elements; the divergence of distributions, which is "
                "the mean over samples, is reduction='batchmean'."
            )


@pytest.mark.parametrize("size", [3, 2**16])
def test_negative_variance_in_compiled_code(size: int) -> None:
    """By the operator or by the definition, as the size has it."""
    compiled = torch.compile(F.gaussian_nll_loss, backend="aot_eager", fullgraph=True)
    ones = torch.ones(size)
    assert compiled(ones, ones, ones).item() == 0
    with pytest.raises(RuntimeError if size == 3 else ValueError, match=r"^gaussian_nll_loss: .* of var are negative"):
        compiled(ones, ones, -ones)
