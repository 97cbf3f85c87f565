"""A training from its metrics: the losses by epoch beside what a guess would cost."""

import json
import pickle
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from losskit import functional
from losskit.core.inputs import check_int, check_tensor
from losskit.errors import DataError, LosskitValueError
from losskit.plot.style import INK, LINES, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Baseline", "guess", "history", "loss_histogram", "mean_guess"]

Row = dict[str, float]
NEEDED = ("epoch", "train_loss", "test_loss")
# Of the histogram: bins over the losses, which span several powers of ten.
BINS = 24
# A guess is computed from so many scores.
MOST_CLASSES = 10_000_000


class Baseline(NamedTuple):
    """What a model that knows nothing of its input would lose."""

    value: float
    label: str
    unit: str = "nats"


def history(
    run: Any,
    *,
    num_classes: int | None = None,
    target: Tensor | None = None,
    losses: Tensor | None = None,
    ax: Any = None,
) -> "Axes | tuple[Axes, Axes]":
    """Training and test loss by epoch, with the loss of a guess as a baseline.

    **Args**: `run`: the folder of a `losskit train`, its metrics.jsonl, or a list of dicts with epoch, train_loss,
    test_loss and, if there is one, test_accuracy. `num_classes`: the baseline is ln C, the cross entropy of equal
    probabilities. `target`: the numbers of a regression; the baseline is their variance, the squared error of their
    mean. With neither, the folder of a `losskit train` tells which baseline is its own. `losses`: `(epochs, samples)`,
    the loss of each sample after each epoch, drawn as a histogram by epoch. `ax`: one matplotlib Axes, or two where
    `losses` is given; None for a new figure.

    **Returns**: the Axes, or with `losses` the two Axes.

    **Raises**: `DataError` for metrics that cannot be read, `LosskitValueError` for losses of another shape.

    **Example**:

    >>> import losskit
    >>> rows = [{"epoch": 1, "train_loss": 2.2, "test_loss": 1.8}, {"epoch": 2, "train_loss": 0.9, "test_loss": 0.6}]
    >>> axes = losskit.plot.history(rows, num_classes=10)
    >>> [line.get_label() for line in axes.lines]
    ['training loss', 'test loss', 'ln 10 = 2.303: a guess among 10']
    """
    rows, title, own = _read(run)
    asked = _baseline(num_classes, target)
    baseline = own if asked is None else asked
    if losses is not None:
        check_tensor("history", "losses", losses)
    if losses is not None and (losses.ndim != 2 or len(losses) != len(rows) or losses.shape[1] == 0):
        raise LosskitValueError(
            f"history: losses must be (epochs, samples) with the {len(rows)} epochs of the run, got shape "
            f"{tuple(losses.shape)}."
        )
    axes = panels(ax, 1 if losses is None else 2, "history", (6.4 if losses is None else 10.5, 4.2))
    _losses_by_epoch(axes[0], rows, title, baseline)
    if losses is None:
        return axes[0]
    loss_histogram(axes[1], [int(row["epoch"]) for row in rows], losses)
    axes[1].set_ylabel("loss of a sample" if baseline is None else f"loss of a sample ({baseline.unit})")
    return axes[0], axes[1]


def guess(num_classes: int) -> Baseline:
    """The cross entropy of equal probabilities: ln C."""
    value = functional.cross_entropy(torch.zeros(1, num_classes, dtype=torch.float64), torch.zeros(1, dtype=torch.long))
    return Baseline(float(value), f"ln {num_classes} = {float(value):.3f}: a guess among {num_classes}")


def mean_guess(target: Tensor) -> Baseline:
    """The squared error of the mean: Var(y)."""
    numbers = target.detach().cpu().double()
    value = float(functional.mse_loss(numbers.mean().expand_as(numbers), numbers))
    return Baseline(value, f"Var(y) = {value:.4g}: always the mean", "target units squared")


def _baseline(num_classes: int | None, target: Tensor | None) -> Baseline | None:
    if num_classes is not None and target is not None:
        raise LosskitValueError("history: num_classes is for classes and target for a regression; give one of them.")
    if num_classes is not None:
        check_int("history", "num_classes", num_classes)
        if not 1 <= num_classes <= MOST_CLASSES:
            raise LosskitValueError(f"history: num_classes must lie in [1, {MOST_CLASSES:,}], got {num_classes}.")
        return guess(num_classes)
    if target is None:
        return None
    check_tensor("history", "target", target)
    if target.numel() == 0 or target.is_complex() or not bool(target.isfinite().all()):
        raise LosskitValueError("history: target must hold finite numbers, whose variance is the baseline.")
    return mean_guess(target)


def _read(run: Any) -> tuple[list[Row], str, Baseline | None]:
    """The rows, a title, and the baseline that belongs to a folder of `losskit train`."""
    if not isinstance(run, (str, Path)):
        return _checked(list(run), "history"), "Training", None
    path = Path(run)
    file = path / "metrics.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise DataError(
            f"history: {file} cannot be read ({error.strerror or error}); name a folder of losskit train, or its "
            "metrics.jsonl."
        ) from error
    except ValueError as error:
        raise DataError(f"history: {file} is no file of JSON lines ({error}).") from error
    title, baseline = _of_checkpoint(file.with_name("checkpoint.pt"))
    return _checked(rows, str(file)), title or file.parent.name or "Training", baseline


def _checked(rows: Sequence[Any], source: str) -> list[Row]:
    for number, row in enumerate(rows, 1):
        needed = (*NEEDED, "test_accuracy") if isinstance(row, dict) and "test_accuracy" in row else NEEDED
        missing = [name for name in needed if not isinstance(row, dict) or not _is_number(row.get(name))]
        if missing:
            raise DataError(f"{source}: row {number} has no number called {' or '.join(missing)}.")
    if not rows:
        raise DataError(f"{source}: there is no epoch in it yet.")
    return list(rows)


def _is_number(value: object) -> bool:
    # An int may be too large to be drawn.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


def _of_checkpoint(path: Path) -> tuple[str, Baseline | None]:
    """What was trained, from the checkpoint beside the metrics; nothing where there is none that can be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        options = content["options"]
        # The bias of the last layer has a number for each class.
        classes = len(list(content["network"].values())[-1])
        return f"{options['data']}, {options['loss']}", _of_loss(options["loss"], classes)
    except (
        OSError,
        pickle.UnpicklingError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        EOFError,
        AttributeError,
    ):
        return "", None


def _of_loss(loss: str, classes: int) -> Baseline | None:
    """The loss of equal probabilities for each class, as `losskit train` takes the loss: one-hot where it needs to."""
    if loss in ("cross_entropy", "linear_cross_entropy", "nll_loss"):
        return guess(classes)
    one_hot = torch.eye(classes, dtype=torch.float64)
    even = torch.full_like(one_hot, 1 / classes)
    if loss == "mse":
        value = float(functional.mse_loss(even, one_hot))
        return Baseline(value, f"Var(y) = {value:.4g}: 1/{classes} for every class", "one-hot units squared")
    value = float(functional.binary_cross_entropy(even, one_hot))
    return Baseline(value, f"{value:.4g}: 1/{classes} for every class")


def _losses_by_epoch(axes: "Axes", rows: list[Row], title: str, baseline: Baseline | None) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    marked = len(rows) <= 40
    for drawn, name in zip(LINES, ("train_loss", "test_loss"), strict=False):
        axes.plot(
            epochs,
            [row[name] for row in rows],
            color=drawn.color,
            linestyle=drawn.linestyle,
            linewidth=2,
            marker=drawn.marker if marked else "",
            label=f"{'training' if name == 'train_loss' else 'test'} loss",
        )
    if baseline is not None:
        axes.axhline(baseline.value, color=INK, linestyle=":", linewidth=1.5, label=baseline.label)
    if all(row[name] > 0 for row in rows for name in ("train_loss", "test_loss")):
        # A loss falls by factors, not by steps.
        axes.set_yscale("log")
    last = rows[-1]
    accuracy = f", {100 * last['test_accuracy']:.2f} % right" if "test_accuracy" in last else ""
    axes.set_title(f"{title}: test loss {last['test_loss']:.4g}{accuracy}", fontsize="medium")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("loss" if baseline is None else f"loss ({baseline.unit})")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize="small")


def loss_histogram(axes: "Axes", epochs: Sequence[int], losses: Tensor) -> None:
    """How the losses of the samples are spread after each epoch: a column of shades for each."""
    from matplotlib.colors import LogNorm
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.ticker import MaxNLocator

    numbers = losses.detach().cpu().double()
    positive = numbers[(numbers > 0) & numbers.isfinite()]
    if not len(positive) or not bool((numbers >= 0).all()):
        raise LosskitValueError(
            "history: a histogram by epoch needs losses that are neither negative nor NaN, and some above 0."
        )
    # Losses below a hundred-thousandth of the largest are of no interest, and fill the lowest bin.
    high = float(positive.max())
    low = max(float(positive.min()), high * 1e-5)
    if low == high:
        low = high / 10
    edges = torch.logspace(
        torch.log10(torch.tensor(low)), torch.log10(torch.tensor(high)), BINS + 1, dtype=torch.float64
    )
    columns = []
    for row in numbers:
        counts = torch.histogram(row.clamp(low, high).log(), edges.log()).hist
        columns.append(100 * counts / len(row))
    shares = torch.stack(columns, 1)  # (bins, epochs)
    sides = _sides(epochs)
    mesh = axes.pcolormesh(
        sides,
        edges.numpy(),
        shares.masked_fill(shares == 0, float("nan")).numpy(),
        cmap="cividis_r",
        norm=LogNorm(vmin=100 / numbers.shape[1], vmax=100),
    )
    axes.set_yscale("log")
    axes.figure.colorbar(mesh, ax=axes, label="share of the samples (%)")
    # Black and white are seen on every shade.
    outline = [Stroke(linewidth=4, foreground="white"), Normal()]
    for label, middle, style in (("mean", numbers.mean(1), "-"), ("median", numbers.median(1).values, "--")):
        axes.plot(epochs, middle.tolist(), color=INK, linestyle=style, linewidth=2, label=label, path_effects=outline)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("loss of a sample")
    axes.set_title("Losses of the samples by epoch")
    axes.legend(fontsize="small", loc="lower left")


def _sides(epochs: Sequence[int]) -> list[float]:
    """The edges between epochs, which need not follow each other by one."""
    middles = [(a + b) / 2 for a, b in pairwise(epochs)]
    first = 0.5 if not middles else middles[0] - epochs[0]
    last = 0.5 if not middles else epochs[-1] - middles[-1]
    return [epochs[0] - first, *middles, epochs[-1] + last]
