"""Which loss a name means: `mse`, `MSELoss` and `mse_loss` are one."""

from difflib import get_close_matches

from losskit.catalog import LOSSES, LossInfo
from losskit.errors import LosskitValueError

__all__ = ["SHORT_NAMES", "loss_named"]

# What people say beside the names of functions and classes, and the same without `_loss`.
SHORT_NAMES = {
    "bce": "binary_cross_entropy",
    "bce_with_logits": "binary_cross_entropy_with_logits",
    "ce": "cross_entropy",
    "cosine": "cosine_embedding_loss",
    "gaussian": "gaussian_nll_loss",
    "infonce": "info_nce",
    "kl": "kl_div",
    "linear_ce": "linear_cross_entropy",
    "mae": "l1_loss",
    "poisson": "poisson_nll_loss",
    "triplet": "triplet_margin_loss",
}


def _names() -> dict[str, LossInfo]:
    known: dict[str, LossInfo] = {}
    for info in LOSSES:
        for name in (info.name, info.name.removesuffix("_loss"), info.module, *info.deprecated_modules):
            known[_plain(name)] = info
    by_function = {info.name: info for info in LOSSES}
    return known | {short: by_function[name] for short, name in SHORT_NAMES.items()}


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def loss_named(name: str, asked_by: str) -> LossInfo:
    """The loss with this function's name, class name or short name, in any case.

    **Raises**: `LosskitValueError`, in the name of `asked_by`, where there is none.

    **Example**:

    >>> loss_named("mse", "plot").name, loss_named("HuberLoss", "plot").name
    ('mse_loss', 'huber_loss')
    """
    known = _names()
    plain = _plain(name)
    if plain in known:
        return known[plain]
    near = get_close_matches(plain, known, n=1)
    hint = f"Did you mean {_shown(near[0])!r}?" if near else "losskit losses lists them all."
    raise LosskitValueError(f"{asked_by}: no loss is called {name!r}. {hint}")


def _shown(plain: str) -> str:
    """A known name as it is written: classes have capitals."""
    return next((info.module for info in LOSSES if info.module.casefold() == plain), plain)
