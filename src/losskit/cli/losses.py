"""`losskit losses`: the losses, their formulas, what they take, and which of them serves a task."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches

from losskit.catalog import LOSSES, LossInfo
from losskit.errors import LosskitValueError
from losskit.suggestion import Suggestions, suggest

__all__ = ["add_command"]

EPILOG = """\
examples
  losskit losses
  losskit losses huber_loss
  losskit losses logits
  losskit losses --task segmentation
  losskit losses --task "regression with outliers"
"""

# Of no terminal: into a file or another program each loss goes on one line.
_UNLIMITED = 1 << 16
_COLUMNS = ("function", "class", "task", "formula", "input")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "losses",
        help="the losses, what they take, and which of them serves a task",
        description="Prints the losses as a table, all that is known of one, or with --task which ones serve a task "
        "and why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="the name of a function or class, for all that is known of it; or words that each loss shown must hold, "
        "anywhere and in any case",
    )
    parser.add_argument(
        "--task",
        metavar="TEXT",
        help="what the model is for, in a few words such as 'segmentation': the losses to try, the first one in front",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.task is not None:
        return _suggest(arguments.words, arguments.task, arguments.json)
    found = _find(arguments.words)
    if arguments.json:
        print(json.dumps([asdict(loss) for loss in found], ensure_ascii=False, indent=2))
    elif len(arguments.words) == 1 and _is_named(found[0], arguments.words[0]):
        print(_entry(found[0]))
    else:
        print(_table(found, shutil.get_terminal_size((_UNLIMITED, 24)).columns))
    return 0


def _suggest(words: Sequence[str], task: str, as_json: bool) -> int:
    """The losses for a task, of which each shown must hold all of the words."""
    suggested = suggest(task)
    wanted = [loss.name for loss in _matching(words)]
    found = Suggestions(suggested.task, [one for one in suggested if one.loss in wanted])
    if not found:
        raise LosskitValueError(
            f"losses: none of the losses for {suggested.task!r} holds {' and '.join(map(repr, words))}; "
            f"--task alone shows {', '.join(one.loss for one in suggested)}."
        )
    print(json.dumps([asdict(one) for one in found], ensure_ascii=False, indent=2) if as_json else found)
    return 0


def _matching(words: Sequence[str]) -> list[LossInfo]:
    return [loss for loss in LOSSES if all(word.casefold() in _text(loss) for word in words)]


def _find(words: Sequence[str]) -> list[LossInfo]:
    if len(words) == 1:
        named = [loss for loss in LOSSES if _is_named(loss, words[0])]
        if named:
            return named
    found = _matching(words)
    if found:
        return found
    known = sorted({word for loss in LOSSES for word in (loss.name, loss.module, *_text(loss).split())})
    unknown = [word for word in words if not any(word.casefold() in _text(loss) for loss in LOSSES)]
    if unknown:
        raise LosskitValueError(f"losses: no loss holds {unknown[0]!r}.{_suggestion(unknown[0], known)}")
    raise LosskitValueError(f"losses: no loss holds all of {' '.join(words)!r}; fewer words find more.")


def _is_named(loss: LossInfo, name: str) -> bool:
    return name in (loss.name, loss.module)


def _text(loss: LossInfo) -> str:
    """All that a search looks through."""
    values = [value for name, value in asdict(loss).items() if name not in ("latex", "try_next")]
    return " ".join(" ".join(value) if isinstance(value, tuple) else value for value in values).casefold()


def _suggestion(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else " losskit losses lists them all."


def _entry(loss: LossInfo) -> str:
    names = {field.name: field.name.replace("_", " ") for field in fields(LossInfo)}
    names |= {"name": "function", "module": "class", "mean_over": "mean divides by"}
    values = asdict(loss) | {
        # The formula once more, for documents.
        "latex": "",
        "name": f"losskit.functional.{loss.name}",
        "module": f"losskit.{loss.module}",
        "relatives": ", ".join(loss.relatives) or "-",
        "try_next": ", ".join(loss.try_next),
        "deprecated_modules": ", ".join(loss.deprecated_modules),
    }
    shown = {names[field]: value for field, value in values.items() if value}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def _table(losses: Sequence[LossInfo], width: int) -> str:
    rows = [_COLUMNS, *((loss.name, loss.module, loss.task, loss.formula, loss.input) for loss in losses)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    # Too narrow for columns: the names in front, the rest below them.
    wrap = textwrap.TextWrapper(width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    lines: list[str] = []
    for loss in losses:
        lines += wrap.wrap(f"{loss.name}  {loss.module}  {loss.task}")
        lines += wrap.wrap(f"    {loss.formula}")
        lines += wrap.wrap(f"    input: {loss.input}")
    return "\n".join(lines)
