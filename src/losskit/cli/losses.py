"""`losskit losses`: the losses, their formulas, and what they take."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches

from losskit.catalog import LOSSES, LossInfo
from losskit.errors import LosskitValueError

__all__ = ["add_command"]

# Of no terminal: into a file or another program each loss goes on one line.
_UNLIMITED = 1 << 16
_COLUMNS = ("function", "class", "task", "formula", "input")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "losses",
        help="the losses, their formulas, and what they take",
        description="Prints the losses as a table, or all that is known of one.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="the name of a function or class, for all that is known of it; or words that each loss shown must hold, "
        "anywhere and in any case",
    )
    parser.add_argument("--task", metavar="TEXT", help="losses for tasks that hold this text, such as regression")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found = _find(arguments.words, arguments.task)
    if arguments.json:
        print(json.dumps([asdict(loss) for loss in found], ensure_ascii=False, indent=2))
    elif len(arguments.words) == 1 and _is_named(found[0], arguments.words[0]):
        print(_entry(found[0]))
    else:
        print(_table(found, shutil.get_terminal_size((_UNLIMITED, 24)).columns))
    return 0


def _find(words: Sequence[str], task: str | None) -> list[LossInfo]:
    losses = [loss for loss in LOSSES if task is None or task.casefold() in loss.task]
    if not losses:
        known = sorted({loss.task for loss in LOSSES})
        raise LosskitValueError(
            f"losses: --task {task!r} is none of {', '.join(known)}.{_suggestion(task or '', known)}"
        )
    if len(words) == 1:
        named = [loss for loss in losses if _is_named(loss, words[0])]
        if named:
            return named
    found = [loss for loss in losses if all(word.casefold() in _text(loss) for word in words)]
    if found:
        return found
    known = sorted({word for loss in LOSSES for word in (loss.name, loss.module, *_text(loss).split())})
    unknown = [word for word in words if not any(word.casefold() in _text(loss) for loss in LOSSES)]
    if unknown:
        raise LosskitValueError(f"losses: no loss holds {unknown[0]!r}.{_suggestion(unknown[0], known)}")
    within = "" if task is None else f" and is for --task {task!r}"
    raise LosskitValueError(f"losses: no loss holds all of {' '.join(words)!r}{within}; fewer words find more.")


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
