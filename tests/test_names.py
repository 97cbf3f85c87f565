"""One loss has many names."""

import pytest

from losskit.catalog import LOSSES
from losskit.errors import LosskitError
from losskit.names import SHORT_NAMES, loss_named


@pytest.mark.parametrize("info", LOSSES, ids=lambda info: info.name)
def test_every_loss_by_function_class_and_short_name(info: object) -> None:
    names = [info.name, info.module, info.name.removesuffix("_loss"), info.module.upper()]  # type: ignore[attr-defined]
    assert [loss_named(name, "plot") for name in (*names, names[0].replace("_", "-"))] == [info] * 5


def test_short_names() -> None:
    for short, name in SHORT_NAMES.items():
        assert loss_named(short, "plot").name == name
    found = [loss_named(name, "plot").name for name in ("mse", "l1", "huber", "bce", "ce", "mae", "kl", "NLLLoss2d")]
    assert found == [
        "mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy", "cross_entropy", "l1_loss", "kl_div", "nll_loss",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hubber", "Did you mean 'huber'?"),
        ("HuberLos", "Did you mean 'HuberLoss'?"),
        ("cross entropi", "Did you mean 'cross_entropy'?"),
        ("", "losskit losses lists them all."),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(LosskitError) as caught:
        loss_named(name, "curve")
    assert str(caught.value) == f"curve: no loss is called {name!r}. {hint}"
