"""Wrong usage as one sentence, with the word that was probably meant."""

import argparse
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import NoReturn

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are a sentence on stderr and exit status 2."""

    def error(self, message: str) -> NoReturn:
        choice = re.fullmatch(r"(.*): invalid choice: '?(.*?)'? \(choose from (.*)\)", message, re.DOTALL)
        unknown = re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL)
        if choice:
            argument, word = choice[1].removeprefix("argument "), choice[2]
            known = re.findall(r"[^\s,']+", choice[3])
            what = "command" if argument == "COMMAND" else argument
            sentence = f"{what} {word!r} is none of {', '.join(known)}"
        elif unknown:
            word, known = unknown[1].partition("=")[0], sorted(set(self._options()))
            sentence = f"there is no option {word}" if word.startswith("-") else f"{word!r} is one argument too many"
        else:
            sentence, word, known = message, "", []
        near = get_close_matches(word, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"{self.prog} --help tells what it takes."
        print(f"{self.prog.replace(' ', ': ', 1)}: {sentence}. {hint}", file=sys.stderr)
        sys.exit(2)

    def _options(self) -> Iterator[str]:
        """Of this parser and, since an unknown option is told to the topmost one alone, of those below it."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._options()
