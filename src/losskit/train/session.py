"""A training from its options to its files."""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import losskit
from losskit.errors import LosskitValueError
from losskit.train import data as data_sets
from losskit.train.compare import Comparison, compare_with_torch
from losskit.train.criterion import Criterion, criterion, loss_label
from losskit.train.curve import loss_curve, require_matplotlib
from losskit.train.data import ImageData
from losskit.train.loop import Training, deterministic
from losskit.train.network import NUM_CLASSES
from losskit.train.options import TrainOptions
from losskit.train.output import Checkpoint, OutputFolder, Row
from losskit.train.progress import Progress, Silent

__all__ = ["Result", "train"]

MODULE_NAMES = {
    "cross_entropy": "CrossEntropyLoss",
    "nll_loss": "NLLLoss",
    "bce_with_logits": "BCEWithLogitsLoss",
    "mse": "MSELoss",
}


class Result(NamedTuple):
    rows: list[Row]
    step_losses: Tensor
    folder: Path
    comparison: Comparison | None


def train(options: TrainOptions, progress: Progress | None = None, *, compare_torch: bool = False) -> Result:
    """Train the classifier as `options` say, going on after the last finished epoch in `options.out` if there is one.

    Writes metrics.jsonl, model.pt and checkpoint.pt after every epoch and curve.png at the end. With `compare_torch`
    the training is then repeated with torch.nn's criterion, and the result says whether the losses are the same.

    Raises:
        LosskitError: anything that keeps the training from starting is raised before the first step.
    """
    progress = Silent() if progress is None else progress
    _check_device(options.device)
    require_matplotlib()
    folder = OutputFolder(options.folder)
    folder.prepare(options.overwrite)
    checkpoint = folder.load(options)
    data = data_sets.load(options.data, options.root)
    ours = criterion(options, data.train_labels, "losskit")
    _describe(options, data, ours, progress)
    checkpoint = _train(Training(options, data, ours), folder, checkpoint, progress)
    folder.write_results(checkpoint)
    folder.write_curve(loss_curve(checkpoint.rows, f"{options.data}, {options.loss}", loss_label(options.loss)))
    last = checkpoint.rows[-1]
    progress.line(
        f"done: test loss {last['test_loss']:.4f} {unit(options.loss)}, accuracy {100 * last['test_accuracy']:.2f} % "
        f"({round(last['test_accuracy'] * len(data.test_labels))} of {len(data.test_labels)} test images)"
    )
    for name, path in (("loss curve", folder.curve), ("metrics", folder.metrics), ("model", folder.model)):
        progress.line(f"{name + ':':<12}{path}")
    comparison = None
    if compare_torch:
        comparison = compare_with_torch(options, data, checkpoint.step_losses, progress)
        for line in comparison.lines(MODULE_NAMES[options.loss], unit(options.loss)):
            progress.line(line)
    return Result(checkpoint.rows, checkpoint.step_losses, folder.path, comparison)


def unit(loss: str) -> str:
    return "one-hot units squared" if loss == "mse" else "nats"


def _train(training: Training, folder: OutputFolder, checkpoint: Checkpoint | None, progress: Progress) -> Checkpoint:
    """Train the epochs that are still missing; returns the state after the last one, which is on the disk."""
    options = training.options
    with deterministic(training.device):
        rows: list[Row] = []
        step_losses: list[float] = []
        environment = _environment()
        if checkpoint is not None:
            training.network.load_state_dict(checkpoint.network)
            training.optimizer.load_state_dict(checkpoint.optimizer)
            rows, step_losses = list(checkpoint.rows), checkpoint.step_losses.tolist()
            progress.epoch_saved(len(rows))
            progress.line(f"resuming after epoch {len(rows)} of {options.epochs}")
            _note_changes(checkpoint.environment, environment, progress)
        steps = -(-len(training.data.train_labels) // options.batch_size)
        progress.start("losskit", options.epochs * steps, len(step_losses))
        try:
            for epoch in range(len(rows) + 1, options.epochs + 1):
                start = time.perf_counter()
                train_loss, losses = training.train_epoch(epoch, progress.step)
                test_loss, accuracy = training.test()
                step_losses += losses
                rows.append(
                    {
                        "epoch": epoch,
                        "train_loss": train_loss,
                        "test_loss": test_loss,
                        "test_accuracy": accuracy,
                        "seconds": round(time.perf_counter() - start, 3),
                    }
                )
                checkpoint = Checkpoint(
                    training.network.state_dict(),
                    training.optimizer.state_dict(),
                    rows,
                    torch.tensor(step_losses, dtype=torch.float64),
                    environment,
                )
                folder.save(options, checkpoint)
                progress.epoch_saved(epoch)
                progress.line(_epoch_line(rows[-1], options))
        finally:
            progress.stop()
    if checkpoint is None:
        raise LosskitValueError(f"train: --epochs must be at least 1, got {options.epochs}.")
    return checkpoint


def _describe(options: TrainOptions, data: ImageData, ours: Criterion, progress: Progress) -> None:
    progress.line(
        f"{options.data}: {len(data.train_labels)} training and {len(data.test_labels)} test images of 3x32x32, "
        "10 classes"
    )
    # Asked of a call like those to come: what runs depends on dtype and device.
    logits = torch.zeros(len(data.train_labels[: options.batch_size]), NUM_CLASSES, device=options.device)
    labels = data.train_labels[: options.batch_size].to(options.device)
    extras = f" on backend {losskit.explain_dispatch(ours.mean, logits, labels).backend}"
    if options.label_smoothing:
        extras += f", label smoothing {options.label_smoothing}"
    if options.class_weights:
        extras += f", {options.class_weights} class weights"
    progress.line(
        f"losskit.{MODULE_NAMES[options.loss]}{extras}, {options.optimizer} with learning rate "
        f"{options.learning_rate}, batches of {options.batch_size}, seed {options.seed}, {options.device}, "
        f"threads: {torch.get_num_threads()}"
    )


def _epoch_line(row: Row, options: TrainOptions) -> str:
    width = len(str(options.epochs))
    return (
        f"epoch {row['epoch']:>{width}}/{options.epochs}  train loss {row['train_loss']:.4f}  "
        f"test loss {row['test_loss']:.4f}  accuracy {100 * row['test_accuracy']:6.2f} %  {row['seconds']:.1f} s"
    )


def _environment() -> dict[str, str | int]:
    """What the last digits of a training depend on besides its options."""
    return {"losskit": losskit.__version__, "torch": str(torch.__version__), "threads": torch.get_num_threads()}


def _note_changes(saved: dict[str, str | int], now: dict[str, str | int], progress: Progress) -> None:
    changes = [f"{name} {saved.get(name)} then, {value} now" for name, value in now.items() if saved.get(name) != value]
    if changes:
        progress.line(f"note: {', '.join(changes)}: the losses can differ in the last digits from an unbroken training")


def _check_device(device: str) -> None:
    try:
        torch.ones(1, device=device).item()
    # torch answers a missing backend with an AssertionError, a malformed name with a RuntimeError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise LosskitValueError(f"train: --device {device} cannot be used ({reason}); --device cpu can.") from error
