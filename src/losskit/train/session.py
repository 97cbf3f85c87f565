"""A training from its options to its files."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import losskit
from losskit.errors import LosskitValueError
from losskit.train import task as tasks
from losskit.train.compare import Comparison, compare_with_torch
from losskit.train.criterion import loss_label
from losskit.train.curve import loss_curve, require_matplotlib
from losskit.train.loop import Training, deterministic
from losskit.train.options import TrainOptions
from losskit.train.output import Checkpoint, OutputFolder, Row
from losskit.train.progress import Progress, Silent
from losskit.train.ranks import Ranks, joined
from losskit.train.task import Task
from losskit.train.text import LENGTH, perplexity

__all__ = ["Result", "train"]

MODULE_NAMES = {
    "linear_cross_entropy": "LinearCrossEntropyLoss",
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
    """Train a network as `options` say, going on after the last finished epoch in `options.out` if there is one.

    Writes metrics.jsonl, model.pt and checkpoint.pt after every epoch and curve.png at the end, and for a text
    vocabulary.txt. With `compare_torch` the training is then repeated with torch.nn's criterion, and the result says
    whether the losses are the same.

    Under torchrun, or where there is a process group, the ranks share every batch. Rank 0 alone writes and speaks.

    Raises:
        LosskitError: anything that keeps the training from starting is raised before the first step.
    """
    with joined(options.device) as ranks:
        return _train(options, Silent() if progress is None or ranks.rank > 0 else progress, compare_torch, ranks)


def _train(options: TrainOptions, progress: Progress, compare_torch: bool, ranks: Ranks) -> Result:
    if compare_torch and ranks.size > 1:
        raise ranks.same(
            LosskitValueError(
                f"train: --compare-torch needs a single process, got {ranks.size} ranks; leave it out, or train "
                "without torchrun."
            )
        )
    ranks.on_each(lambda: _check_device(options.device, ranks))
    folder = OutputFolder(options.folder)
    ranks.on_first(lambda: _prepare(folder, options))
    task = ranks.on_each(lambda: tasks.task(options))
    checkpoint = ranks.on_first(lambda: folder.load(options, "" if task.text is None else task.text.digest))
    training = Training(options, task, ranks=ranks)
    _describe(training, progress)
    checkpoint = _epochs(training, folder, checkpoint, progress)
    ranks.on_first(lambda: _write_results(folder, checkpoint, options, task))
    progress.line(f"done: {_reached(checkpoint.rows[-1], options, task)}")
    files = [("loss curve", folder.curve), ("metrics", folder.metrics), ("model", folder.model)]
    if task.text is not None:
        files.append(("vocabulary", folder.vocabulary))
    for name, path in files:
        progress.line(f"{name + ':':<12}{path}")
    comparison = None
    if compare_torch:
        comparison = compare_with_torch(options, task, checkpoint.step_losses, progress)
        for line in comparison.lines(_torch_name(options.loss_name), unit(options.loss_name)):
            progress.line(line)
    return Result(checkpoint.rows, checkpoint.step_losses, folder.path, comparison)


def _prepare(folder: OutputFolder, options: TrainOptions) -> None:
    require_matplotlib()
    folder.prepare(options.overwrite)


def _write_results(folder: OutputFolder, checkpoint: Checkpoint, options: TrainOptions, task: Task) -> None:
    folder.write_results(checkpoint)
    unigram = None if task.text is None else task.text.unigram_loss
    title = f"{options.data}, {options.loss}"
    folder.write_curve(loss_curve(checkpoint.rows, title, loss_label(options.loss_name), task.things, unigram))


def _reached(last: Row, options: TrainOptions, task: Task) -> str:
    if task.text is not None:
        unigram = task.text.unigram_loss
        return (
            f"test loss {last['test_loss']:.4f} nats per token, perplexity {last['test_perplexity']:.1f} "
            f"(unigram: {unigram:.4f}, {perplexity(unigram):.1f})"
        )
    samples = len(task.test_targets)
    return (
        f"test loss {last['test_loss']:.4f} {unit(options.loss_name)}, accuracy {100 * last['test_accuracy']:.2f} % "
        f"({round(last['test_accuracy'] * samples)} of {samples} test images)"
    )


def unit(loss: str) -> str:
    return "one-hot units squared" if loss == "mse" else "nats"


def _torch_name(loss: str) -> str:
    if loss == "linear_cross_entropy":
        return "torch.nn.Linear and torch.nn.CrossEntropyLoss"
    return f"torch.nn.{MODULE_NAMES[loss]}"


def _epochs(training: Training, folder: OutputFolder, checkpoint: Checkpoint | None, progress: Progress) -> Checkpoint:
    """Train the epochs that are still missing; returns the state after the last one, which is on the disk."""
    options, ranks, text = training.options, training.ranks, training.task.text
    with deterministic(training.device):
        rows: list[Row] = []
        step_losses: list[float] = []
        environment = _environment(ranks)
        if checkpoint is not None:
            training.network.load_state_dict(checkpoint.network)
            training.optimizer.load_state_dict(checkpoint.optimizer)
            rows, step_losses = list(checkpoint.rows), checkpoint.step_losses.tolist()
            progress.epoch_saved(len(rows))
            progress.line(f"resuming after epoch {len(rows)} of {options.epochs}")
            _note_changes(checkpoint.environment, environment, progress)
        progress.start("losskit", options.epochs * training.steps_per_epoch, len(step_losses))
        try:
            for epoch in range(len(rows) + 1, options.epochs + 1):
                start = time.perf_counter()
                train_loss, losses = training.train_epoch(epoch, progress.step)
                tested = training.test()
                step_losses += losses
                seconds = round(time.perf_counter() - start, 3)
                rows.append({"epoch": epoch, "train_loss": train_loss, **tested, "seconds": seconds})
                checkpoint = Checkpoint(
                    training.network.state_dict(),
                    training.optimizer.state_dict(),
                    rows,
                    torch.tensor(step_losses, dtype=torch.float64),
                    environment,
                    [] if text is None else list(text.vocabulary),
                    "" if text is None else text.digest,
                )
                ranks.on_first(partial(folder.save, options, checkpoint))
                progress.epoch_saved(epoch)
                progress.line(_epoch_line(rows[-1], options))
        finally:
            progress.stop()
    if checkpoint is None:
        raise LosskitValueError(f"train: --epochs must be at least 1, got {options.epochs}.")
    return checkpoint


def _describe(training: Training, progress: Progress) -> None:
    options = training.options
    for line in training.task.summary:
        progress.line(line)
    # Asked of a call like those to come: what runs depends on dtype and device.
    backend = losskit.explain_dispatch(training.criterion.mean, *training.first_batch()).backend
    extras = f" on backend {backend}"
    if options.label_smoothing:
        extras += f", label smoothing {options.label_smoothing}"
    if options.class_weights:
        extras += f", {options.class_weights} class weights"
    batches = f"batches of {options.batch_size}"
    if training.task.text is not None:
        batches += f" sequences of {LENGTH} tokens"
    if training.ranks.size > 1:
        batches += f" on {training.ranks.size} ranks"
    progress.line(
        f"losskit.{MODULE_NAMES[options.loss_name]}{extras}, {options.optimizer} with learning rate "
        f"{options.learning_rate}, {batches}, seed {options.seed}, {options.device}, "
        f"threads: {torch.get_num_threads()}"
    )


def _epoch_line(row: Row, options: TrainOptions) -> str:
    width = len(str(options.epochs))
    if "test_perplexity" in row:
        reached = f"perplexity {row['test_perplexity']:6.1f}"
    else:
        reached = f"accuracy {100 * row['test_accuracy']:6.2f} %"
    return (
        f"epoch {row['epoch']:>{width}}/{options.epochs}  train loss {row['train_loss']:.4f}  "
        f"test loss {row['test_loss']:.4f}  {reached}  {row['seconds']:.1f} s"
    )


def _environment(ranks: Ranks) -> dict[str, str | int]:
    """What the last digits of a training depend on besides its options."""
    return {
        "losskit": losskit.__version__,
        "torch": str(torch.__version__),
        "ranks": ranks.size,
        "threads": torch.get_num_threads(),
    }


def _note_changes(saved: dict[str, str | int], now: dict[str, str | int], progress: Progress) -> None:
    changes = [f"{name} {saved.get(name)} then, {value} now" for name, value in now.items() if saved.get(name) != value]
    if changes:
        progress.line(f"note: {', '.join(changes)}: the losses can differ in the last digits from an unbroken training")


def _check_device(device: str, ranks: Ranks) -> None:
    try:
        torch.ones(1, device=ranks.device(device)).item()
    # torch answers a missing backend with an AssertionError, a malformed name with a RuntimeError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise LosskitValueError(f"train: --device {device} cannot be used ({reason}); --device cpu can.") from error
