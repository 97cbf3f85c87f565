"""The page about language models: its examples run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "language-models.md"


def test_the_examples_run() -> None:
    # Fences are no part of what an example prints.
    text = re.sub(r"^```.*$", "", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) >= 10
    assert doctest.DocTestRunner().run(test).failed == 0
