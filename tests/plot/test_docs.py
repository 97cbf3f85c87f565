"""docs/plot.md: its commands make its pictures."""

import re
import shlex
from pathlib import Path

import pytest

from losskit import plot
from losskit.cli import main
from plot.test_references import TOLERANCE, difference

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "plot.md").read_text("utf-8")
COMMANDS = re.findall(r"^losskit (plot .* -o docs/pictures/(\S+)\.png.*)$", PAGE, re.MULTILINE)


def test_every_picture_is_shown_and_has_its_command() -> None:
    names = [name for _, name in COMMANDS]
    assert names == re.findall(r"^!\[[^]]+\]\(pictures/(\S+)\.png\)$", PAGE, re.MULTILINE)
    assert sorted(names) == sorted(path.stem for path in (DOCS / "pictures").iterdir())
    assert all(path.stat().st_size < 60_000 for path in (DOCS / "pictures").iterdir())


# The history of a training needs the training.
@pytest.mark.parametrize(("command", "name"), [one for one in COMMANDS if one[1] != "history"])
def test_the_command_makes_the_picture(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    assert main(shlex.split(command)) == 0
    path = Path("docs") / "pictures" / f"{name}.png"
    assert difference(tmp_path / path, DOCS / "pictures" / path.name) <= TOLERANCE


def test_the_questions_and_answers_are_on_the_page() -> None:
    joined = " ".join(PAGE.split())
    for asked in plot.QUESTIONS:
        assert f"### {asked.question} {asked.answer} ![" in joined
