"""`losskit explain`: how a loss comes about, number by number."""

import argparse
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from losskit import functional
from losskit.catalog import LOSSES, LossInfo
from losskit.cli.parser import Parser
from losskit.cli.tensors import read_value
from losskit.core.inputs import FLOAT_DTYPES
from losskit.errors import OutputError
from losskit.explanation import Explanation, explain
from losskit.explanation.arguments import DATA, FACTORS, loss_of_name
from losskit.files import replace_file

__all__ = ["add_command"]

FORMATS: dict[str, Callable[[Explanation], str]] = {
    "text": lambda explanation: f"{explanation}\n",
    "md": Explanation.to_markdown,
    "html": Explanation.to_html,
    "latex": Explanation.to_latex,
    "json": Explanation.to_json,
}
# What the name of the file that is written says.
FORMAT_OF = {".md": "md", ".html": "html", ".tex": "latex", ".json": "json"}
# Options that are one of a few words; the loss itself says which.
_WORDS = {
    "reduction": "none|mean|sum",
    "on_empty": "nan|zero|raise",
    "backend": "auto|reference|cpu|triton",
    "out_dtype": "|".join(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES),
}
# What cannot be written on a command line.
_OBJECTS = ("distance_function", "options")
# Options of the explanation, and what else stands in what argparse has read.
_OWN = ("lang", "format", "out", "digits", "rows", "columns")
_GENERAL = ("loss", "arguments", "run")
EPILOG = """\
examples
  losskit explain cross_entropy --input "[[0.1, 0.2, 0.3]]" --target "[1]"
  losskit explain mse --input "[1, 2, 3]" --target "[2, 2, 4]" --reduction sum --lang zh
  losskit explain cross_entropy --input logits.npy --target labels.npy --weight "[1, 1, 3]" --out loss.html
  losskit explain cross_entropy --help     the arguments of a loss
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "explain",
        help="how a loss comes about, number by number",
        description="Explains a loss on given numbers: its formula, every step from the input to the result, the\n"
        "gradient, and what is remarkable about them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("loss", metavar="LOSS", help="a function, class or short name, such as cross_entropy or mse")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="--ARGUMENT VALUE",
        help="the arguments of the loss by their names: numbers as JSON, or a .csv, .npy or .pt file; and these:",
    )
    _add_own_options(parser)
    # An argument may stand before the name of the loss too. Which ones there are is known behind it alone.
    for name in dict.fromkeys(name for loss in LOSSES for name in _parameters(loss)):
        parser.add_argument(*_flags(name), dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    loss = loss_of_name(arguments.loss)
    before = vars(arguments)
    own = argparse.Namespace(**{name: before[name] for name in _OWN if name in before})
    # What stood before the name is read as what stands behind it, by the arguments of this loss.
    early = [f"{_flags(name)[0]}={before[name]}" for name in before if name not in (*_OWN, *_GENERAL)]
    given = vars(_parser_of(loss).parse_args([*early, *arguments.arguments], own))
    explanation = explain(
        loss.name,
        **{name: value for name, value in given.items() if name in ("lang", "digits", "rows", "columns")},
        **{name: _value(name, text) for name, text in given.items() if name in _parameters(loss)},
    )
    _show(explanation, given.get("format"), given.get("out"))
    return 0


def _parser_of(loss: LossInfo) -> Parser:
    parser = Parser(
        prog=f"losskit explain {loss.name}",
        description=f"{loss.formula}. "
        "A TENSOR is numbers as JSON, such as '[[0.1, 0.2]]', or a .csv, .npy or .pt file.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, parameter in _parameters(loss).items():
        metavar = _WORDS.get(name) or ("TENSOR" if name in (*DATA, *FACTORS) else "VALUE")
        needed = parameter.default is inspect.Parameter.empty
        parser.add_argument(
            *_flags(name), dest=name, metavar=metavar, help="needed" if needed else f"default: {parameter.default}"
        )
    _add_own_options(parser)
    return parser


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    """Before the name of the loss and behind it alike, so that a default is told but set by neither."""
    group = parser.add_argument_group("of the explanation")

    def add(flag: str, **more: Any) -> None:
        group.add_argument(flag, default=argparse.SUPPRESS, **more)

    add("--lang", metavar="en|zh", help="English or Chinese (default: that of the locale)")
    add("--format", choices=tuple(FORMATS), help="of what is printed (default: text, tables in a terminal with rich)")
    add("--out", metavar="FILE", help="write there; .md, .html, .tex and .json tell the format")
    add("--digits", type=int, metavar="N", help="decimals of the numbers (default: 4)")
    add("--rows", type=int, metavar="N", help="samples that are shown at most (default: 12)")
    add("--columns", type=int, metavar="N", help="classes that are shown; more for more targets (default: 8)")


def _parameters(loss: LossInfo) -> Mapping[str, inspect.Parameter]:
    """What a command line can give the function of the loss."""
    parameters = inspect.signature(getattr(functional, loss.name)).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in _OBJECTS}


def _flags(name: str) -> list[str]:
    """With dashes, as commands have them, and as Python writes it."""
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def _value(name: str, text: str) -> Any:
    if name == "out_dtype":
        return getattr(torch, text) if text in _WORDS[name].split("|") else text
    if name in _WORDS:
        return text
    # Python's way of writing these, too.
    return read_value(f"explain: {_flags(name)[0]}", {"True": "true", "False": "false"}.get(text, text))


def _show(explanation: Explanation, form: str | None, out: str | None) -> None:
    if out is not None:
        path = Path(out)
        text = FORMATS[form or FORMAT_OF.get(path.suffix.casefold(), "text")](explanation)
        try:
            replace_file(path, text.encode())
        except OSError as error:
            raise OutputError(f"explain: cannot write --out {out} ({error.strerror or error}).") from None
    elif form is None and sys.stdout.isatty() and _has_rich():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(explanation.to_rich(console.width))
    else:
        sys.stdout.write(FORMATS[form or "text"](explanation))


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None
