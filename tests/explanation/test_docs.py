"""What the pages show of `explain` is what it prints."""

import doctest
import shlex
from pathlib import Path

import pytest

from losskit.cli import main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explain.md"
README = ROOT / "README.md"


def blocks(page: Path) -> list[list[str]]:
    """The lines between fences."""
    found: list[list[str]] = []
    inside = False
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append([])
        elif inside:
            found[-1].append(line)
    assert not inside
    return found


SHOWN = [
    pytest.param(block[0].removeprefix("$ losskit "), block[1:], id=f"{page.name}: {block[0][18:60]}")
    for page in (PAGE, README)
    for block in blocks(page)
    if block[0].startswith("$ losskit explain")
]


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")


def test_there_is_something_to_look_at() -> None:
    assert len(SHOWN) == 5


@pytest.mark.parametrize(("command", "lines"), SHOWN)
def test_a_page_shows_what_is_printed(command: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 0
    printed = capsys.readouterr().out.rstrip("\n")
    # A line with … leaves out what lies between.
    at = 0
    for part in "\n".join(lines).split("…\n" if "…" in lines else "\0"):
        text = part.strip("\n…")
        found = printed.find(text, at)
        assert found >= 0, text
        at = found + len(text)
    if "…" not in lines:
        assert "\n".join(lines) == printed


def test_the_python_of_the_page_gives_what_it_shows() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 8
    assert found.failed == 0


def test_commands_without_output_name_arguments_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import torch

    monkeypatch.chdir(tmp_path)
    np.save("logits.npy", np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))
    np.save("labels.npy", np.array([0, 1, 2, 0]))
    torch.save(torch.randn(50, 1, 5).log_softmax(2), "log_probs.pt")
    (tmp_path / "labels.csv").write_text("\n".join("121312132") + "\n")
    commands = [line for block in blocks(PAGE) for line in block if line.startswith("losskit explain")]
    assert len(commands) == 3
    for line in commands:
        assert main(shlex.split(line)[1:]) == 0
        capsys.readouterr()
    assert (tmp_path / "loss.html").read_text("utf-8").startswith("<!DOCTYPE html>")
