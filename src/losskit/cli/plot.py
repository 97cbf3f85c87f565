"""`losskit plot`: pictures of losses, of data and of trainings, as files."""

import argparse
import inspect
import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import losskit
from losskit import functional, plot
from losskit.cli.tensors import read_tensor
from losskit.errors import LosskitError, LosskitValueError
from losskit.names import loss_named
from losskit.plot.questions import question_named
from losskit.plot.saving import check_suffix
from losskit.plot.style import for_files

__all__ = ["add_command"]

DESCRIPTION = """\
Draws a picture and writes it as PNG, SVG or PDF, as the suffix of the file says.

A LOSS is a name of a function or class, or a short one such as mse, l1, huber, bce; its options follow a colon:
huber:delta=2, cross_entropy:label_smoothing=0.1. DATA is numbers as JSON, such as '[[0.1, 0.2, 0.3]]', or a .csv,
.npy or .pt file.
"""
EPILOG = """\
examples
  losskit plot curve mse l1 huber -o losses.png
  losskit plot compare mse huber:delta=2 --of gradient -o gradients.svg
  losskit plot question
  losskit plot question softmax-twice
  losskit plot samples cross_entropy --input logits.npy --target labels.npy
  losskit plot classes cross_entropy --input logits.npy --target labels.npy --weight balanced
  losskit plot landscape mse --input "[0, 1, 2, 3]" --target "[-1, 1, 3, 5]"
  losskit plot history runs/digits-cross_entropy -o history.png
"""

Draw = Callable[[argparse.Namespace], Any]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plot",
        help="pictures of losses, of data and of trainings",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(title="pictures", metavar="PICTURE", required=True)

    curve = _kind(kinds, "curve", "value and gradient of losses, side by side", _curve)
    compare = _kind(kinds, "compare", "the values, or the gradients, of several losses", _compare)
    compare.add_argument("--of", choices=("value", "gradient"), default="value", help="default: %(default)s")
    for one in (curve, compare):
        one.add_argument("losses", nargs="+", metavar="LOSS", help="such as mse, l1, huber:delta=2")
        one.add_argument("--span", nargs=2, type=float, metavar=("FROM", "TO"), help="first and last position")
        one.add_argument("--y", type=float, metavar="Y", help="the target, for losses that take one here")

    question = _kind(kinds, "question", "a picture that answers a question; without a name, the questions", _question)
    question.add_argument("name", nargs="?", metavar="NAME", help="such as softmax-twice")

    samples = _kind(kinds, "samples", "the loss of each sample, and its share of the sum", _samples)
    classes = _kind(kinds, "classes", "the share of each class in the loss, before and after weights", _classes)
    classes.add_argument("--weight", metavar="DATA", help="class weights, or the word balanced")
    landscape = _kind(kinds, "landscape", "a loss over two logits, or over slope and intercept of a line", _landscape)
    landscape.add_argument("--span", nargs=2, type=float, metavar=("FROM", "TO"), help="of both numbers")
    for one in (samples, classes, landscape):
        one.add_argument("loss", metavar="LOSS", help="such as cross_entropy, mse")
        required = one is not landscape
        one.add_argument("--input", required=required, metavar="DATA", help="what the model gives")
        one.add_argument("--target", required=required, metavar="DATA", help="what it should give")

    history = _kind(kinds, "history", "training and test loss of a run, with the loss of a guess", _history)
    history.add_argument("folder", type=Path, metavar="RUN", help="folder of a losskit train, or its metrics.jsonl")
    history.add_argument("--classes", type=int, metavar="C", help="the guess is ln C")
    history.add_argument("--target", metavar="DATA", help="numbers of a regression: the guess is their variance")
    history.add_argument("--losses", metavar="DATA", help="(epochs, samples): the loss of each sample after each epoch")


def _kind(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, draw: Draw
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(
        name,
        help=text,
        description=f"Draws {text}.",
        epilog="losskit plot --help tells what LOSS and DATA are, with examples.",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help=f"ends in .png, .svg or .pdf (default: {name}.png)"
    )
    parser.add_argument("--dpi", type=float, default=150, metavar="N", help="pixels per inch (default: %(default)s)")
    parser.set_defaults(run=_run, draw=draw, kind=name)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.kind == "question" and arguments.name is None:
        width = max(len(one.name) for one in plot.QUESTIONS)
        print("\n".join(f"{one.name:<{width}}  {one.question}" for one in plot.QUESTIONS))
        return 0
    out = arguments.out or Path(f"{getattr(arguments, 'name', None) or arguments.kind}.png")
    # Before any work that would be lost.
    check_suffix(out, "plot")
    if not 10 <= arguments.dpi <= 1200:
        raise LosskitValueError(f"plot: --dpi must lie in [10, 1200], got {arguments.dpi:g}.")
    with for_files():
        print(plot.save(arguments.draw(arguments), out, dpi=arguments.dpi))
    if arguments.kind == "question":
        asked = question_named(arguments.name)
        print(f"{asked.question} {asked.answer}")
    return 0


def _curve(arguments: argparse.Namespace) -> Any:
    return plot.curve(*map(_loss, arguments.losses), span=_span(arguments), target=arguments.y)


def _compare(arguments: argparse.Namespace) -> Any:
    losses = map(_loss, arguments.losses)
    return plot.compare(*losses, of=arguments.of, span=_span(arguments), target=arguments.y)


def _question(arguments: argparse.Namespace) -> Any:
    return plot.question(arguments.name)


def _samples(arguments: argparse.Namespace) -> Any:
    return plot.samples(_loss(arguments.loss), *_data(arguments))


def _classes(arguments: argparse.Namespace) -> Any:
    weight = arguments.weight
    if weight not in (None, "balanced"):
        weight = read_tensor("plot: --weight", weight).float()
    return plot.classes(_loss(arguments.loss), *_data(arguments), weight)


def _landscape(arguments: argparse.Namespace) -> Any:
    span = _span(arguments) or (-4.0, 4.0)
    loss = _loss(arguments.loss)
    if arguments.input is None and arguments.target is None:
        return plot.landscape(loss, span=span)
    if arguments.input is None or arguments.target is None:
        raise LosskitValueError("plot: --input and --target belong together; give both for a line, or neither.")
    return plot.landscape(loss, *_data(arguments), span=span)


def _history(arguments: argparse.Namespace) -> Any:
    target, losses = (
        None if text is None else read_tensor(f"plot: {option}", text)
        for text, option in ((arguments.target, "--target"), (arguments.losses, "--losses"))
    )
    return plot.history(arguments.folder, num_classes=arguments.classes, target=target, losses=losses)


def _span(arguments: argparse.Namespace) -> tuple[float, float] | None:
    return None if arguments.span is None else (arguments.span[0], arguments.span[1])


def _data(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    input, target = read_tensor("plot: --input", arguments.input), read_tensor("plot: --target", arguments.target)
    info = loss_named(arguments.loss.partition(":")[0], "plot")
    taken = inspect.signature(getattr(functional, info.name)).parameters.values()
    needed = [one.name for one in taken if one.default is inspect.Parameter.empty]
    if len(needed) != 2:
        raise LosskitValueError(
            f"plot: {info.name} takes {', '.join(needed)}, of which a command gives two; call losskit.plot."
            f"{arguments.kind} from Python."
        )
    # Numbers that are typed without a point are meant as numbers, but for class indices.
    if "int" not in info.target_dtype:
        target = target if target.is_floating_point() else target.float()
    return input if input.is_floating_point() else input.float(), target


def _loss(text: str) -> Any:
    """A loss with the options after its colon."""
    name, colon, options = text.partition(":")
    info = loss_named(name, "plot")
    if not colon:
        return info.name
    chosen: dict[str, Any] = {}
    for option in options.split(","):
        key, _, value = option.partition("=")
        try:
            chosen[key.strip()] = json.loads(value)
        except ValueError as error:
            raise LosskitValueError(
                f"plot: an option of a loss is written name=number, as in huber:delta=2, got {option!r}."
            ) from error
    known = _options_of(info.module)
    unknown = [key for key in chosen if key not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(known) or 'none'}."
        raise LosskitValueError(f"plot: {info.module} has no option {unknown[0]!r}. {hint}")
    try:
        return getattr(losskit, info.module)(**chosen)
    except LosskitError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise LosskitValueError(f"plot: {info.module} does not take {options} ({error}).") from error


def _options_of(module: str) -> list[str]:
    """The options of a class that are plain numbers or words."""
    parameters = inspect.signature(getattr(torch.nn, module)).parameters.values()
    apart = ("weight", "pos_weight", "reduction", "size_average", "reduce", "distance_function")
    return [one.name for one in parameters if one.name not in apart and one.default is not inspect.Parameter.empty]
