"""The docs: a page for each finding, whose example runs, and an overview that knows them all."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from diagnosis.healthy import BUILDERS
from losskit.diagnosis.checks import CHECKS, KINDS
from losskit.diagnosis.finding import Kind

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "findings"
OVERVIEW = ROOT / "docs" / "diagnose.md"


def test_every_finding_has_a_page_and_every_page_a_finding() -> None:
    assert sorted(path.name for path in PAGES.iterdir()) == sorted(f"{kind.code}.md" for kind in KINDS)
    assert all((ROOT / kind.page).is_file() for kind in KINDS)


# As outside of tests, where a warning is no error.
@pytest.mark.filterwarnings("default::losskit.errors.LossWarning")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_a_page_says_what_its_finding_is_and_its_example_runs(kind: Kind) -> None:
    text = (ROOT / kind.page).read_text("utf-8")
    head, *_ = text.split("\n## ")
    title = kind.title[0].upper() + kind.title[1:]
    assert head == f"# {kind.code}\n\n{title}. Check {kind.check} of [losskit.diagnose](../diagnose.md).\n"
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What you see", "Why", "The fault", "The fix"]
    code = text.split("## The fault")[1]
    assert f"'{kind.code}'" in code or kind.code in ("mean-of-means", "non-finite-loss", "plateau")
    # Fences are no part of what an example prints.
    plain = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(plain, {}, kind.code, kind.page, 0)
    assert len(test.examples) >= 6
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


def test_links_of_the_pages_lead_somewhere() -> None:
    for path in [*PAGES.iterdir(), OVERVIEW]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
            assert "://" in link or (path.parent / link).exists(), f"{path.name}: {link}"


def test_the_overview_lists_every_finding_with_its_check() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \|$", OVERVIEW.read_text("utf-8"), re.MULTILINE)
    assert [int(number) for number, *_ in rows] == [check.number for check in CHECKS]
    for check, (_, what, findings, alarms) in zip(CHECKS, rows, strict=True):
        assert what == check.what
        calls = sum(BUILDERS[name][1] for name in check.functions)
        assert alarms.startswith(f"none in {calls:,} random calls") == (check.number in (1, 2, 3, 4, 5, 10))
        assert findings == ", ".join(f"[{kind.code}](findings/{kind.code}.md)" for kind in check.kinds)
