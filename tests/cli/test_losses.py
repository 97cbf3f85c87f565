"""`losskit losses`."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from losskit.catalog import LOSSES, LossInfo
from losskit.cli import main
from losskit.suggestion import suggest

README = Path(__file__).parents[2] / "README.md"


def names(text: str) -> list[str]:
    """Of a table whose losses stand on lines of their own."""
    return [line.split()[0] for line in text.splitlines()[1:]]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[info.name, info.module, info.task, info.formula, info.input] for info in LOSSES]
    assert [re.split("  +", line) for line in lines] == [["function", "class", "task", "formula", "input"], *rows]
    for column in zip(*rows, strict=True):
        assert (
            len({line.index(cell) for line, cell in zip(lines[1:], column, strict=True) if line.count(cell) == 1}) == 1
        )


@pytest.mark.parametrize("width", [40, 80, 130])
def test_table_of_a_narrow_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["losses"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    said = " ".join(text.split())
    for info in LOSSES:
        # The header of a loss may break between its names.
        assert f"{info.name} {info.module} {info.task}" in said
        assert f"{info.formula} input: {info.input}" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["huber"], ["huber_loss", "mse_loss", "smooth_l1_loss"]),
        (["HUBER", "Girshick"], ["smooth_l1_loss"]),
        (["class indices", "log-prob"], ["nll_loss"]),
    ],
)
def test_search(arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", *arguments]) == 0
    assert names(capsys.readouterr().out) == expected


@pytest.mark.parametrize("info", LOSSES, ids=lambda info: info.name)
def test_full_entry(info: LossInfo, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", info.name]) == 0
    by_function = capsys.readouterr().out
    assert main(["losses", info.module]) == 0
    assert capsys.readouterr().out == by_function
    values = [re.split("  +", line, maxsplit=1)[1] for line in by_function.splitlines()]
    # Not the formula for documents, and not the deprecated modules where there are none.
    shown = [value for name, value in list(asdict(info).items())[2:] if value and name != "latex"]
    assert values == [
        f"losskit.functional.{info.name}",
        f"losskit.{info.module}",
        *(value if isinstance(value, str) else ", ".join(value) for value in shown),
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    assert everything == json.loads(json.dumps([asdict(info) for info in LOSSES]))
    assert main(["losses", "mse_loss", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["mse_loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cros_entropy"], "no loss holds 'cros_entropy'. Did you mean 'cross_entropy'?"),
        (["huber", "girshik"], "no loss holds 'girshik'. Did you mean 'girshick'?"),
        (["qqq"], "no loss holds 'qqq'. losskit losses lists them all."),
        (["legendre", "laplace"], "no loss holds all of 'legendre laplace'; fewer words find more."),
        (
            ["logits", "--task", "regression"],
            "none of the losses for 'regression' holds 'logits'; --task alone shows mse_loss, huber_loss, l1_loss.",
        ),
    ],
)
def test_nothing_found(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"losskit: losses: {message}\n")


def test_the_losses_for_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "--task", "object detection boxes"]) == 0
    assert capsys.readouterr().out == f"{suggest('object detection')}\n"
    assert main(["losses", "--task", "Multi-Label", "softplus"]) == 0
    assert re.findall(r"^\d\. (\w+)", capsys.readouterr().out, re.MULTILINE) == ["binary_cross_entropy_with_logits"]
    assert main(["losses", "--task", "counts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps([asdict(one) for one in suggest("counts")]))


def test_an_unknown_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "--task", "regresion"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "losskit: suggest: task 'regresion' is not known. Did you mean 'regression'?\n"


def test_the_readme_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "mse_loss"]) == 0
    assert f"$ losskit losses mse_loss\n{capsys.readouterr().out}```" in README.read_text("utf-8")
