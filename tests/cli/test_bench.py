"""`losskit bench`: the repository's benchmarks, or the small comparison where there are none."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from losskit import functional
from losskit.cli import bench, comparison, main
from losskit.cli.comparison import WORKLOADS, compare


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no repository is around the package; with data that take no time."""
    monkeypatch.setattr(bench, "_repository", lambda: None)

    def small(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(8, 5, generator=generator), torch.rand(8, 5, generator=generator)

    for module in (bench, comparison):
        monkeypatch.setattr(module, "WORKLOADS", dict.fromkeys(WORKLOADS, ("little", small)))
    monkeypatch.setattr(bench, "compare", lambda name, seconds: compare(name, 0.0))


def test_in_a_clone_the_benchmarks_run(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.workloads import WORKLOADS as ALL

    assert main(["bench", "--list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == [one.name for one in ALL if one.name != "build"]
    assert main(["bench", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: no workload is called 'nothing'; there are: ")


def test_without_one_a_small_comparison_runs(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick"]) == 0
    first, heading, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("torch ")
    expected = "forward and backward, median losskit torch faster quartiles of losskit error"
    assert " ".join(heading.split()) == expected
    assert [line.split()[0] for line in lines] == list(WORKLOADS)
    for line in lines:
        assert re.fullmatch(r"\w+ +[\d.]+ .s +[\d.]+ .s +[\d.]+×  [\d.]+ .s … [\d.]+ .s +\d\.\de-\d\d", line), line
    assert main(["bench", "mse", "--list"]) == 0
    assert capsys.readouterr().out == f"{'mse_loss':<34}little\n"


def test_a_wrong_value_is_not_timed(
    installed: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(factor: float, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return functools.wraps(function)(lambda *arguments: factor * function(*arguments))

    for factor in (1 + 1e-4, float("nan")):
        monkeypatch.setattr(functional, "mse_loss", scaled(factor, torch.nn.functional.mse_loss))
        assert main(["bench", "mse_loss", "huber_loss"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"mse_loss +WRONG: error \S+ against float64, torch's \S+; not timed", lines[2])
        assert "WRONG" not in lines[3]


def test_a_wrong_gradient_alone_is_found(monkeypatch: pytest.MonkeyPatch, installed: None) -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient / 2

    right = torch.nn.functional.mse_loss
    monkeypatch.setattr(functional, "mse_loss", lambda input, target: Halved.apply(right(input, target)))
    result = compare("mse_loss", 0.0)
    assert result.error == pytest.approx(0.5)
    assert result.losskit is None


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_workloads_are_right(name: str) -> None:
    result = compare(name, 0.0)
    assert result.losskit is not None
    assert result.torch is not None
    assert 0 < result.losskit.lower <= result.losskit.median <= result.losskit.upper


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("msse", "no loss is called 'msse'. Did you mean 'mse'?"),
        ("ctc", f"there is no workload for ctc_loss, there are {', '.join(WORKLOADS)}."),
    ],
)
def test_unknown_workloads(name: str, message: str, installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name]) == 2
    assert capsys.readouterr().err == f"losskit: bench: {message}\n"
