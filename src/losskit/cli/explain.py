"""`losskit explain`: how a loss comes about, number by number."""

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import torch

from losskit import functional
from losskit.catalog import LossInfo
from losskit.cli.tensors import read_value
from losskit.core.inputs import FLOAT_DTYPES
from losskit.errors import LosskitValueError, OutputError
from losskit.explanation import Explanation, explain
from losskit.explanation.arguments import DATA, FACTORS, loss_named

__all__ = ["add_command"]

FORMATS: dict[str, Callable[[Explanation], str]] = {
    "text": lambda explanation: f"{explanation}\n",
    "md": Explanation.to_markdown,
    "html": Explanation.to_html,
    "latex": Explanation.to_latex,
    "json": Explanation.to_json,
}
# What a file name that is written to says.
SUFFIXES = {".md": "md", ".html": "html", ".tex": "latex", ".json": "json"}
# Options that are one of a few words.
_WORDS = {
    "reduction": ("none", "mean", "sum"),
    "on_empty": ("nan", "zero", "raise"),
    "backend": ("auto", "reference", "cpu", "triton"),
    "out_dtype": tuple(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES),
}
# What is no number, list or word.
_CALLABLE = ("distance_function", "options")
_OWN = ("lang", "format", "out", "digits", "rows", "columns")
_EXAMPLES = """examples:
  losskit explain cross_entropy --input "[[0.1, 0.2, 0.3]]" --target "[1]"
  losskit explain mse_loss --input "[1, 2, 3]" --target "[2, 2, 4]" --reduction sum --lang zh
  losskit explain cross_entropy --input logits.npy --target labels.npy --weight "[1, 1, 3]" --out loss.html
  losskit explain cross_entropy --help     the arguments of a loss
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "explain",
        help="how a loss comes about, number by number",
        description="Explains a loss on given numbers: its formula, every step from the input to the result, the "
        "gradient, and what is remarkable about them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("loss", metavar="LOSS", help="the name of a function or class, such as cross_entropy")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="--ARGUMENT VALUE",
        help="the arguments of the loss by their names: JSON, or a .npy, .pt or .csv file; and the options below",
    )
    _add_own_options(parser)
    parser.set_defaults(run=_run)


class _LossParser(argparse.ArgumentParser):
    """What comes behind the name of a loss; what is wrong with it is told in a sentence."""

    def error(self, message: str) -> NoReturn:
        raise LosskitValueError(f"explain: {message}; {self.prog} --help lists the arguments.")


def _run(arguments: argparse.Namespace) -> int:
    loss = loss_named(arguments.loss)
    parser = _parser_of(loss)
    given, unknown = parser.parse_known_args(arguments.arguments)
    if unknown:
        raise LosskitValueError(_unknown(loss, unknown[0]))
    own = {
        name: vars(given).get(name, getattr(arguments, name))
        for name in ("lang", "format", "out", "digits", "rows", "columns")
    }
    if own["format"] not in (None, *FORMATS):
        near = get_close_matches(own["format"], FORMATS, n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise LosskitValueError(f"explain: --format must be {', '.join(FORMATS)}, got {own['format']!r}.{hint}")
    values = {name: _value(name, text) for name, text in vars(given).items() if name in _parameters(loss)}
    explanation = explain(
        loss.name,
        lang=own["lang"],
        **{name: own[name] for name in ("digits", "rows", "columns") if own[name] is not None},
        **values,
    )
    _show(explanation, own["format"], own["out"])
    return 0


def _parser_of(loss: LossInfo) -> _LossParser:
    parser = _LossParser(
        prog=f"losskit explain {loss.name}",
        description=f"{loss.formula}. Tensors are JSON, such as '[[0.1, 0.2]]', or .npy, .pt or .csv files.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, parameter in _parameters(loss).items():
        if name in _CALLABLE:
            continue
        needed = parameter.default is inspect.Parameter.empty
        metavar = "|".join(_words(loss, name)) or ("TENSOR" if name in (*DATA, *FACTORS) else "VALUE")
        # argparse takes a sign of percent for its own.
        said = "needed" if needed else f"default: {parameter.default}".replace("%", "%%")
        parser.add_argument(
            *dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")), dest=name, metavar=metavar, help=said
        )
    _add_own_options(parser)
    return parser


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    """Before the name of the loss and behind it alike."""
    default = argparse.SUPPRESS if parser.argument_default == argparse.SUPPRESS else None
    add = parser.add_argument_group("of the explanation").add_argument
    add("--lang", metavar="en|zh", default=default, help="English or Chinese (default: that of the locale)")
    add("--format", metavar="|".join(FORMATS), default=default, help="of what is printed (default: text)")
    add("--out", metavar="FILE", default=default, help="write there; .md, .html, .tex and .json tell the format")
    add("--digits", type=int, metavar="N", default=default, help="decimals of the numbers (default: 4)")
    add("--rows", type=int, metavar="N", default=default, help="samples that are shown at most (default: 12)")
    add(
        "--columns",
        type=int,
        metavar="N",
        default=default,
        help="classes that are shown; more for more targets (default: 8)",
    )


def _words(loss: LossInfo, name: str) -> tuple[str, ...]:
    return (*_WORDS["reduction"], "batchmean") if (loss.name, name) == ("kl_div", "reduction") else _WORDS.get(name, ())


def _value(name: str, text: str) -> Any:
    if name == "out_dtype":
        return getattr(torch, text) if text in _WORDS[name] else text
    if name in _WORDS:
        return text
    # Python's way of writing these, too.
    return read_value(f"explain: --{name}", {"True": "true", "False": "false"}.get(text, text))


def _unknown(loss: LossInfo, word: str) -> str:
    known = [f"--{name.replace('_', '-')}" for name in (*_parameters(loss), *_OWN)]
    if not word.startswith("-"):
        return f"explain: {word!r} belongs to no argument: --{next(iter(_parameters(loss)))} {word!r}?"
    if word.lstrip("-").replace("-", "_") in _CALLABLE:
        return f"explain: {word} takes what cannot be written on a command line: losskit.explain in Python can."
    near = get_close_matches(word.split("=")[0].replace("_", "-"), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else f" losskit explain {loss.name} --help lists the arguments."
    return f"explain: {loss.name} takes no {word}.{hint}"


def _parameters(loss: LossInfo) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(functional, loss.name)).parameters


def _show(explanation: Explanation, form: str | None, out: str | None) -> None:
    if out is not None:
        path = Path(out)
        try:
            path.write_text(FORMATS[form or SUFFIXES.get(path.suffix, "text")](explanation), "utf-8")
        except OSError as error:
            raise OutputError(f"explain: cannot write --out {out} ({error.strerror or error}).") from None
    elif form is None and sys.stdout.isatty() and _has_rich():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(explanation.to_rich(console.width))
    else:
        sys.stdout.write(FORMATS[form or "text"](explanation))


def _has_rich() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True
