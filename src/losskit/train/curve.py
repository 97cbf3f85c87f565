"""The picture of a training: mean loss on the training and on the test data, epoch by epoch."""

import io
from collections.abc import Sequence
from types import ModuleType

from losskit.errors import MissingDependencyError
from losskit.train.output import Row

__all__ = ["loss_curve", "require_matplotlib"]


def require_matplotlib() -> ModuleType:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            "train: the loss curve needs matplotlib, which is not installed: pip install 'losskit[train]'."
        ) from error
    figure: ModuleType = matplotlib.figure
    return figure


def loss_curve(
    rows: Sequence[Row], title: str, loss_label: str, things: str = "images", unigram: float | None = None
) -> bytes:
    """A PNG with both losses of every epoch, on a logarithmic axis: a loss falls by factors, not by steps.

    `things` is what the network reads, `unigram` the test loss of the frequencies of words, for a line to go below.
    """
    # A Figure of its own, not pyplot's: no window, no global state, no choice of a backend for the caller.
    figure = require_matplotlib().Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 40 else ""
    axes.plot(
        epochs,
        [row["train_loss"] for row in rows],
        marker=marker,
        color="#0072b2",
        label=f"training {things}, during the epoch",
    )
    axes.plot(
        epochs,
        [row["test_loss"] for row in rows],
        marker=marker,
        color="#d55e00",
        linestyle="--",
        label=f"test {things}, after it",
    )
    if unigram is not None:
        axes.axhline(unigram, color="#555555", linestyle=":", label=f"frequencies alone: {unigram:.3f}")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(loss_label)
    axes.set_title(f"{title}: {_reached(rows[-1])}", fontsize="medium")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _reached(row: Row) -> str:
    if "test_perplexity" in row:
        return f"perplexity {row['test_perplexity']:.1f} on the test text"
    return f"{100 * row['test_accuracy']:.2f} % of the test images right"
