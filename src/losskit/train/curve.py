"""The picture of a training: mean loss on the training and on the test images, epoch by epoch."""

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


def loss_curve(rows: Sequence[Row], title: str, loss_label: str) -> bytes:
    """A PNG with both losses of every epoch, on a logarithmic axis: a loss falls by factors, not by steps."""
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
        label="training images, during the epoch",
    )
    axes.plot(
        epochs,
        [row["test_loss"] for row in rows],
        marker=marker,
        color="#d55e00",
        linestyle="--",
        label="test images, after it",
    )
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(loss_label)
    axes.set_title(f"{title}: {100 * rows[-1]['test_accuracy']:.2f} % of the test images right", fontsize="medium")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
