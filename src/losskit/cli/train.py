"""`losskit train`: the options of a training, and what happens when it is stopped."""

import argparse
import shlex
import sys
from pathlib import Path

from losskit.cli.progress import best_progress
from losskit.errors import LosskitError
from losskit.train import Result, train
from losskit.train.options import CLASS_WEIGHTS, DATA_SETS, LOSSES, OPTIMIZERS, TrainOptions
from losskit.train.progress import Progress
from losskit.train.ranks import AnotherRankError, by_torchrun, is_first

__all__ = ["add_command"]

DEFAULTS = TrainOptions()
TEXT_DEFAULTS = TrainOptions(data="text")

DESCRIPTION = """\
Trains the tutorials' classifier (three convolutions, two linear layers) on images of 3x32x32 in 10 classes,
or a small language model (an embedding, a GRU, and the embedding again as head) on text, with a criterion from
losskit. After every epoch the test loss is the summed loss of all test batches divided once. On images the
accuracy comes from argmax; on text the perplexity is e to the test loss, in nats per token.

A training that was stopped, by Ctrl-C or by force, goes on after its last finished epoch when the same command
is given again, and ends with the losses it would have had. Raising --epochs prolongs a finished training.

Under torchrun the ranks share every batch, on the CPU or with --device cuda on a GPU each, and the losses are those
of a single process up to rounding. Rank 0 alone writes and speaks. Where a rank ends, all end, and the same command
goes on after the last finished epoch.
"""

EPILOG = """\
data sets
  digits    scikit-learn's 1797 handwritten digits, enlarged; comes with the package
  cifar10   60000 photographs; --root names the folder that holds the published archive,
            cifar-10-python.tar.gz or cifar-10-binary.tar.gz, as it is or extracted
  text      Python's language reference, which comes with every Python as pydoc_data.topics under the licence
            of the Python Software Foundation: words and signs, the rarest as one unknown word, and a tenth of
            the text held out; the loss that their frequencies alone reach (unigram) is told beside the others
  fake      random pixels: nothing to learn, quick to try

losses on images
  cross_entropy     on the logits
  nll_loss          on their log-softmax: the same number as cross_entropy
  bce_with_logits   on the logits, against one-hot targets
  mse               on the logits, against one-hot targets

losses on text
  linear_cross_entropy   last layer and loss in one, which never holds all logits
  cross_entropy          on the logits of the last layer: the same number

files in --out
  metrics.jsonl   a line of JSON for each epoch
  curve.png       training and test loss
  model.pt        the network's state_dict
  checkpoint.pt   what resuming needs
  vocabulary.txt  on text: the token of each number, a line for each

examples
  losskit train
  losskit train --data cifar10 --root data --optimizer adamw --epochs 10 --label-smoothing 0.1
  losskit train --loss bce_with_logits --class-weights balanced --compare-torch
  losskit train --data text
  torchrun --nproc-per-node 2 -m losskit train --data text
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train a small network on real images or text with a losskit criterion",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", choices=DATA_SETS, default=DEFAULTS.data, help="data set (default: %(default)s)")
    data.add_argument(
        "--root", type=Path, default=DEFAULTS.root, metavar="FOLDER", help="where CIFAR-10 is (default: %(default)s)"
    )
    loss = parser.add_argument_group("loss")
    loss.add_argument(
        "--loss",
        choices=LOSSES,
        help=f"criterion (default: {DEFAULTS.loss}; on text {TEXT_DEFAULTS.loss})",
    )
    loss.add_argument(
        "--label-smoothing",
        type=float,
        default=DEFAULTS.label_smoothing,
        metavar="X",
        help="mix the target with the uniform distribution, 0 to 1; cross_entropy and linear_cross_entropy only "
        "(default: %(default)s)",
    )
    loss.add_argument(
        "--class-weights",
        choices=CLASS_WEIGHTS,
        help="balanced: weigh a class the more the rarer it is; as weight for cross_entropy and nll_loss, "
        "as pos_weight for bce_with_logits; not on text",
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=DEFAULTS.epochs, metavar="N", help="default: %(default)s")
    training.add_argument(
        "--batch-size",
        type=int,
        default=DEFAULTS.batch_size,
        metavar="N",
        help="images, or sequences of text, of all ranks together (default: %(default)s)",
    )
    training.add_argument(
        "--lr",
        type=float,
        metavar="X",
        help="learning rate (default: 0.001 for adam and adamw; for sgd 0.01, or 0.05 with bce_with_logits and mse; on "
        "text 0.003 for adam and adamw, 0.5 for sgd)",
    )
    training.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        help=f"sgd has momentum 0.9 (default: {DEFAULTS.optimizer}; on text {TEXT_DEFAULTS.optimizer})",
    )
    training.add_argument(
        "--seed", type=int, default=DEFAULTS.seed, metavar="N", help="of weights and order (default: %(default)s)"
    )
    training.add_argument("--device", default=DEFAULTS.device, help="cpu, cuda, ... (default: %(default)s)")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/DATA-LOSS")
    output.add_argument(
        "--overwrite", action="store_true", help="start anew even if --out holds a training, and replace its files"
    )
    output.add_argument(
        "--compare-torch",
        action="store_true",
        help="then repeat the training with torch.nn's criterion, print the largest difference of the losses, and "
        "exit with status 1 if it is more than rounding explains",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        options = _options(arguments)
    except LosskitError:
        # Every rank was given the same words.
        if is_first():
            raise
        return 2
    progress = _Saved(best_progress())
    try:
        result: Result = train(options, progress, compare_torch=arguments.compare_torch)
    except AnotherRankError:
        # That rank says why.
        return 2
    except KeyboardInterrupt:
        if is_first():
            print(_stopped(options, arguments.compare_torch, progress.epochs), file=sys.stderr)
        return 130
    return 0 if result.comparison is None or result.comparison.same else 1


def _options(arguments: argparse.Namespace) -> TrainOptions:
    return TrainOptions(
        data=arguments.data,
        root=arguments.root,
        loss=arguments.loss,
        label_smoothing=arguments.label_smoothing,
        class_weights=arguments.class_weights,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        optimizer=arguments.optimizer,
        seed=arguments.seed,
        device=arguments.device,
        out=arguments.out,
        overwrite=arguments.overwrite,
    )


class _Saved:
    """Passes everything on, and remembers how many epochs are on the disk."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.epochs = 0
        self.start, self.step, self.stop, self.line = inner.start, inner.step, inner.stop, inner.line

    def epoch_saved(self, epoch: int) -> None:
        self.epochs = epoch
        self._inner.epoch_saved(epoch)


def _stopped(options: TrainOptions, compare_torch: bool, epochs: int) -> str:
    if epochs == 0:
        return "losskit: stopped before the first epoch was finished; the same command starts the training again."
    command = resume_command(options, compare_torch)
    if by_torchrun():
        command = f"torchrun ... -m {command}"
    return f"losskit: stopped; {epochs} of {options.epochs} epochs are saved. Resume with: {command}"


def resume_command(options: TrainOptions, compare_torch: bool) -> str:
    """The command that goes on with this training: its options that are not the defaults, without --overwrite."""
    words = ["losskit", "train"]
    defaults = {**TrainOptions(data=options.data).fixed(), "data": DEFAULTS.data}
    for name, value in options.fixed().items():
        if value != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.root != DEFAULTS.root:
        words += ["--root", str(options.root)]
    if options.epochs != DEFAULTS.epochs:
        words += ["--epochs", str(options.epochs)]
    words += ["--out", str(options.folder)]
    if compare_torch:
        words.append("--compare-torch")
    return shlex.join(words)
