"""What stands for logits does what logits do, and computes them only where it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from assertions import assert_as_exact
from torch import Tensor, nn
from torch.nn import functional

import losskit
from causal_lm.models import CLASSES
from losskit.causal_lm.deferred import DeferredLogits, Formula, Origin

BATCH, LENGTH, FEATURES = 2, 6, 4


class Setting:
    """Logits, and what stands for the same."""

    def __init__(self, dtype: torch.dtype = torch.float64, bias: bool = True) -> None:
        torch.manual_seed(0)
        self.head = nn.Linear(FEATURES, CLASSES, bias=bias, dtype=dtype)
        self.hidden = torch.randn(BATCH, LENGTH, FEATURES, dtype=dtype, requires_grad=True)
        self.said: list[str] = []
        self.labels = torch.randint(0, CLASSES, (BATCH, LENGTH))

    @property
    def logits(self) -> Tensor:
        return self.head(self.hidden)

    @property
    def deferred(self) -> Any:
        return DeferredLogits(self.hidden, Origin(self.head.weight, self.head.bias, "1KiB", self.said.append))

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [self.hidden, *self.head.parameters()]))


KEPT_ROWS = torch.tensor([[True, False, True, True, False, True], [False, True, True, True, True, False]])
DEFERRED: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda z: z,
    "all but the last": lambda z: z[..., :-1, :],
    "the last": lambda z: z[:, -3:, :],
    "without the last dimension": lambda z: z[:, 1:],
    "one sample": lambda z: z[0],
    "one sample, from behind": lambda z: z[-1, ...],
    "rows by number": lambda z: z[:, torch.tensor([4, 0]), :],
    "rows by number in two dimensions": lambda z: z[torch.tensor([0, 1, 1]), torch.tensor([2, 3, 3])],
    "rows that a mask keeps": lambda z: z[KEPT_ROWS],
    "rows of a slice that a mask keeps": lambda z: z[..., :-1, :][KEPT_ROWS[:, 1:]],
    "a new dimension": lambda z: z[:, None],
    "flat": lambda z: z.view(-1, CLASSES),
    "flat, by its own size": lambda z: z.reshape(-1, z.size(-1)),
    "flat, without naming the classes": lambda z: z.reshape(BATCH * LENGTH, -1),
    "flattened": lambda z: torch.flatten(z, 0, 1),
    "in one more dimension": lambda z: z.unsqueeze(0),
    "in one less": lambda z: z.unsqueeze(0).squeeze(0),
    "contiguous": lambda z: z[..., 1:, :].contiguous(),
    "divided": lambda z: z / 3.0,
    "multiplied from either side": lambda z: 0.25 * (z * 3),
    "by functions": lambda z: torch.div(torch.mul(z, 2.0), 5),
    "capped": lambda z: torch.tanh(z / 7.0) * 7.0,
    "capped, scaled before and after": lambda z: ((z * 3.0 / 7.0).tanh() * 5.0) / 2.0,
    "float32": lambda z: z.float(),
    "of a dtype": lambda z: z.to(torch.float32).double(),
    "on its own device": lambda z: z.to("cpu").to(z.device, torch.float64),
}
COMPUTED: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda z: z.softmax(-1),
    "logsumexp": lambda z: torch.logsumexp(z, -1),
    "add": lambda z: z + 1,
    "minus": lambda z: -z,
    "from the left": lambda z: 2.0 - z,
    "a tensor of factors": lambda z: z * torch.full((CLASSES,), 2.0),
    "divided by": lambda z: 1.0 / (z + 10.0),
    "a factor below 0": lambda z: z * -2.0,
    "no factor": lambda z: z / float("inf"),
    "some classes": lambda z: z[..., :5],
    "one class": lambda z: z[:, :, 3],
    "classes by number": lambda z: z[..., torch.tensor([1, 2])],
    "whole tensor by one mask": lambda z: z[torch.ones(BATCH, LENGTH, CLASSES, dtype=torch.bool)],
    "a new last dimension": lambda z: z[..., None],
    "flat with the classes": lambda z: z.view(-1),
    "transposed": lambda z: z.transpose(1, 2),
    "tanh twice": lambda z: z.tanh().tanh(),
    "moved on": lambda z: torch.cat([z[:, 1:], z[:, :1]], 1),
    "integers": lambda z: z.to(torch.int64),
    "compared": lambda z: z > 0,
    "gathered": lambda z: z.gather(-1, torch.zeros(BATCH, LENGTH, 1, dtype=torch.long)),
    "an attribute": lambda z: z.mT,
    "in a loop": lambda z: torch.stack([sample.sum() for sample in z]),
    "in place": lambda z: z.mul_(2.0),
}


@pytest.mark.parametrize("name", DEFERRED)
def test_it_stays_deferred_and_knows_its_shape(name: str) -> None:
    setting = Setting()
    real, ours = DEFERRED[name](setting.logits), DEFERRED[name](setting.deferred)
    assert isinstance(ours, DeferredLogits)
    assert setting.said == []
    assert (ours.shape, ours.dtype, ours.device) == (real.shape, real.dtype, real.device)
    assert (ours.ndim, ours.dim(), ours.numel(), len(ours)) == (real.ndim, real.dim(), real.numel(), len(real))
    assert (ours.size(), ours.size(-1)) == (real.size(), real.size(-1))
    assert repr(ours) == f"DeferredLogits({tuple(real.shape)}, {real.dtype})"
    # Computed after all, it is what it would have been.
    assert torch.equal(ours.clone(), real)
    assert setting.said == ["its forward calls clone on them"]


@pytest.mark.parametrize("name", DEFERRED)
@pytest.mark.parametrize("bias", [True, False])
def test_its_cross_entropy_is_that_of_the_logits(name: str, bias: bool) -> None:
    setting = Setting(bias=bias)
    shape = DEFERRED[name](setting.logits).shape
    labels = torch.randint(0, CLASSES, (shape[:-1].numel(),))
    labels[1] = -100
    # Where the logits are rounded to float32, ours are not.
    exact = DEFERRED["nothing" if name in ("float32", "of a dtype") else name]
    for options in ({}, {"reduction": "sum"}, {"label_smoothing": 0.2}, {"ignore_index": -100, "reduction": "none"}):
        results = []
        for operation, z in (
            (exact, setting.logits),
            (DEFERRED[name], setting.logits),
            (DEFERRED[name], setting.deferred),
        ):
            loss = functional.cross_entropy(operation(z).reshape(-1, CLASSES), labels, **options)
            results.append([loss.detach(), *setting.gradients(loss.square().sum())])
        assert results[2][0].dtype == results[1][0].dtype
        for truth, theirs, ours in zip(*results, strict=True):
            assert_as_exact(ours, truth, theirs)
    assert setting.said == []


@pytest.mark.parametrize("name", COMPUTED)
def test_what_needs_the_logits_gets_them(name: str) -> None:
    setting = Setting()
    with torch.no_grad():
        real, ours = COMPUTED[name](setting.logits), COMPUTED[name](setting.deferred)
    assert type(ours) is Tensor
    assert torch.equal(ours, real)
    assert len(setting.said) == 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, labels: functional.cross_entropy(z.transpose(1, 2), labels),
        lambda z, labels: functional.cross_entropy(z.flatten(0, 1), labels.flatten(), torch.rand(CLASSES).double()),
        lambda z, labels: functional.cross_entropy(z.flatten(0, 1), labels.flatten(), size_average=False),
        lambda z, labels: functional.cross_entropy(
            z.flatten(0, 1), functional.one_hot(labels.flatten(), CLASSES).double()
        ),
        lambda z, labels: functional.nll_loss(z.flatten(0, 1).log_softmax(-1), labels.flatten()),
    ],
)
@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
def test_other_losses_get_the_logits(loss: Any) -> None:
    results = []
    for z in ("logits", "deferred"):
        setting = Setting()
        torch.manual_seed(3)
        result = loss(getattr(setting, z), setting.labels)
        results.append([result.detach(), *setting.gradients(result)])
    assert len(setting.said) == 1
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def written_into(z: Any, what: str) -> list[Any]:
    """Views see what is written, copies do not."""
    view, copy, cast = z[:, 1:], z / 2.0, z[:, 1:].float()
    if what == "item":
        z[:, :, 3] = -9.0
    elif what == "view":
        view[:, 0][:, 5] = -9.0
    elif what == "operator":
        z *= 2.0
    else:
        z.masked_fill_(torch.ones(BATCH, LENGTH, 1, dtype=torch.bool), 1.0)
    return [tensor.clone() for tensor in (z, view, copy, cast)]


@pytest.mark.parametrize("what", ["item", "view", "operator", "method"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_writing_into_it_is_seen_where_it_would_be(what: str, dtype: torch.dtype) -> None:
    setting = Setting(dtype)
    with torch.no_grad():
        expected, found = written_into(setting.logits, what), written_into(setting.deferred, what)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert len(setting.said) == 1


def test_once_computed_it_is_that_tensor() -> None:
    setting = Setting()
    z = setting.deferred
    z[:, :, 3] = -9.0
    loss = functional.cross_entropy(z.view(-1, CLASSES), setting.labels.view(-1))
    real = setting.logits
    real[:, :, 3] = -9.0
    assert torch.equal(loss, functional.cross_entropy(real.view(-1, CLASSES), setting.labels.view(-1)))


def test_a_cap_that_divides_and_multiplies_is_exact() -> None:
    # 1/49·49 is not 1.
    formula = Formula().over(49.0)
    assert Formula().options() == {}
    assert formula.options() == {"logit_scale": 1 / 49.0}
    capped = Formula(divisor=49.0, cap=1.0).times(49.0)
    assert capped.options() == {"softcap": 49.0}
    assert Formula(factor=3.0, divisor=2.0, cap=8.0, dtype=torch.float32).over(4.0).options() == {
        "logit_scale": 3.0,
        "softcap": 2.0,
        "out_dtype": torch.float32,
    }


def test_a_shape_that_does_not_fit_is_torchs_error() -> None:
    with pytest.raises(RuntimeError, match="shape '\\[5, 211\\]' is invalid"):
        Setting().deferred.view(5, CLASSES)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_thing'"):
        Setting().deferred.no_such_thing  # noqa: B018  # the access is the test


@pytest.mark.parametrize("needed", [False, True])
def test_the_cross_entropy_of_losskit_with_its_keywords(needed: bool) -> None:
    setting = Setting()
    labels = setting.labels.flatten()
    mask = labels % 2 == 0
    # The logits of the deferred ones may have a scale of their own.
    options: dict[str, Any] = {"logit_scale": 2.0} if needed else {"normalizer": 5.0, "mask": mask, "z_loss": 0.1}
    found, stats = losskit.functional.cross_entropy(
        (setting.deferred / 2.0).flatten(0, 1), labels, return_stats=True, **options
    )
    expected, theirs = losskit.functional.cross_entropy(
        (setting.logits / 2.0).flatten(0, 1), labels, return_stats=True, **options
    )
    assert_as_exact(found, expected)
    assert_as_exact(stats.entropy, theirs.entropy)
    assert len(setting.said) == needed
