"""The benchmarks' own promises: what they refuse, what they report. Nothing here asserts a duration."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import losskit
from benchmarks import __main__ as command
from benchmarks import measure, memory, peers, report
from benchmarks.check import check, error_of, errors_by_column
from benchmarks.measure import OtherWork, interleave
from benchmarks.run import Outcome, PeerResult, Settings, WorkloadResult, outcomes, run, run_workload
from benchmarks.workloads import WORKLOADS, Loss, Problem, Target, Workload

SMALL = Settings(seconds=0.001, memory=False, compile=False, small=True)
LOSSES = [workload for workload in WORKLOADS if isinstance(workload, Workload)]
BY_NAME = {workload.name: workload for workload in WORKLOADS}


def loss_workload(name: str) -> Workload:
    workload = BY_NAME[name]
    if not isinstance(workload, Workload):
        raise TypeError(f"{name} is no workload of a loss")
    return workload


def with_losskit(name: str, function: Loss, peers: tuple[str, ...] = ("losskit", "eager")) -> Workload:
    """The workload with `function` in losskit's place."""
    workload = loss_workload(name)

    def build(shape: tuple[int, ...], seed: int) -> Problem:
        return replace(workload.build(shape, seed), losskit=function)

    return replace(workload, build=build, peers=peers)


@pytest.fixture
def any_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that stand in for losskit's are unknown to its dispatcher."""
    monkeypatch.setattr(losskit, "explain_dispatch", lambda *_, **__: SimpleNamespace(backend="cpu", reason="stand-in"))


# the registry ---------------------------------------------------------------------------------------------------------


def test_names_are_unique() -> None:
    names = [workload.name for workload in WORKLOADS]
    assert len(names) == len(set(names))


def test_every_workload_compares_losskit_with_eager_and_promises_no_larger_error() -> None:
    for workload in LOSSES:
        assert {"losskit", "eager"} <= set(workload.peers), workload.name
        assert Target("error_ratio", 1.0) in workload.targets, workload.name
        for target in workload.targets:
            assert target.peer in workload.peers, workload.name
            assert target.than in workload.peers, workload.name


@pytest.mark.parametrize("workload", LOSSES, ids=lambda workload: workload.name)
def test_small_form_passes_its_gate(workload: Workload) -> None:
    problem = workload.build(workload.small_shape, 0)
    made = [peers.make_peer(problem, name) for name in workload.peers if name not in peers.COMPILED]
    verdicts = check(problem, made)
    assert {name: verdict.complaints for name, verdict in verdicts.items()} == {name: [] for name in verdicts}
    assert {"losskit", "eager"} <= set(verdicts)
    gradients = len(problem.inputs) if problem.needs_grad else 0
    split = problem.class_target is not None and problem.produce is None
    for verdict in verdicts.values():
        assert len(verdict.errors) == 1 + gradients * (2 if split else 1)


@pytest.mark.parametrize("workload", LOSSES, ids=lambda workload: workload.name)
def test_building_is_seeded(workload: Workload) -> None:
    first, same, other = (workload.build(workload.small_shape, seed) for seed in (0, 0, 1))
    for name, tensor in first.inputs.items():
        assert torch.equal(tensor, same.inputs[name])
        assert not torch.equal(tensor, other.inputs[name])


# the gate -------------------------------------------------------------------------------------------------------------


def doubled_gradient(input: Tensor, target: Tensor) -> Tensor:
    loss = F.cross_entropy(input, target)
    return 2 * loss - loss.detach()


def zero_gradient(input: Tensor, target: Tensor) -> Tensor:
    loss = F.cross_entropy(input, target)
    return 0 * loss + loss.detach()


def value_off(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input, target) + 1e-5


def without_softmax_term(input: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(input, target) + input.detach().logsumexp(1).mean()


def nan_value(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input, target) * torch.tensor(float("nan"))


def wrong_shape(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input, target).reshape(1)


def raising(input: Tensor, target: Tensor) -> Tensor:
    raise IndexError("out of range")


class IgnoresGradOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(input, target)
        return F.cross_entropy(input, target)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        input, target = ctx.saved_tensors
        gradient = input.softmax(1)
        gradient[torch.arange(len(target)), target] -= 1
        return gradient / len(target), None


def ignores_grad_output(input: Tensor, target: Tensor) -> Tensor:
    result: Tensor = IgnoresGradOutput.apply(input, target)  # type: ignore[no-untyped-call]
    return result


def leaves_rows_unwritten() -> Loss:
    """A kernel with a buffer that it uses again: only its first call writes the last row."""
    buffer: list[Tensor] = []

    class Unwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
            ctx.save_for_backward(input, target)
            return F.cross_entropy(input, target)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            input, target = ctx.saved_tensors
            gradient = input.softmax(1)
            gradient[torch.arange(len(target)), target] -= 1
            gradient *= grad_outputs[0] / len(target)
            if not buffer:
                buffer.append(gradient.clone())
            buffer[0][:-1] = gradient[:-1]
            return buffer[0].view_as(buffer[0]), None

    def function(input: Tensor, target: Tensor) -> Tensor:
        result: Tensor = Unwritten.apply(input, target)  # type: ignore[no-untyped-call]
        return result

    return function


@pytest.mark.usefixtures("any_dispatch")
@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (doubled_gradient, "losskit: logits target column: error 1 against float64"),
        (zero_gradient, "losskit: logits other columns: error 1 against float64"),
        (value_off, "losskit: value: error 1"),
        (without_softmax_term, "losskit: logits other columns: error 1 against float64"),
        (nan_value, "losskit: the value is not finite everywhere"),
        (wrong_shape, "losskit: the value has shape (1,), not ()"),
        (raising, "losskit: raised IndexError: out of range"),
        (ignores_grad_output, "losskit: logits target column: error 3.7 against float64"),
        (leaves_rows_unwritten(), "losskit: the gradient of logits is not finite at 507 of 3,549 elements"),
    ],
    ids=lambda entry: getattr(entry, "__name__", ""),
)
def test_wrong_losskit_is_refused_and_nothing_is_timed(function: Loss, complaint: str) -> None:
    result = run_workload(with_losskit("cross_entropy_vocab", function), SMALL)
    assert result.status == "wrong"
    assert any(complaint in found for found in result.complaints), result.complaints
    assert all(peer.timing is None for peer in result.peers.values())
    assert result.outcomes == []


@pytest.mark.usefixtures("any_dispatch")
def test_uniform_gradient_is_refused_where_grad_output_is_not() -> None:
    class Averages(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
            ctx.save_for_backward(input, target)
            return (input - target) ** 2

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Any) -> Any:
            input, target = ctx.saved_tensors
            return 2 * (input - target) * grad_outputs[0].mean(), None

    def function(input: Tensor, target: Tensor, reduction: str) -> Tensor:
        result: Tensor = Averages.apply(input, target)  # type: ignore[no-untyped-call]
        return result

    result = run_workload(with_losskit("mse_1e7_none", function), SMALL)
    assert result.status == "wrong"
    assert any(complaint.startswith("losskit: input: error") for complaint in result.complaints)


@pytest.mark.usefixtures("any_dispatch")
def test_right_stand_in_passes_and_is_timed() -> None:
    """The refusals above come from the faults, not from standing in."""
    result = run_workload(with_losskit("cross_entropy_vocab", F.cross_entropy), SMALL)
    assert result.status == "measured"
    assert all(peer.timing is not None for peer in result.peers.values())


def test_wrong_competitor_is_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: doubled_gradient)
    workload = replace(loss_workload("cross_entropy_vocab"), peers=("losskit", "eager", "compile"))
    result = run_workload(workload, replace(SMALL, compile=True))
    assert result.status == "measured"
    assert result.peers["compile"].timing is None
    assert result.peers["compile"].notes[0].startswith("not timed: logits target column: error 1 against float64")
    assert result.peers["losskit"].timing is not None


def test_eager_is_needed_as_yardstick() -> None:
    problem = loss_workload("cross_entropy_vocab").build((3, 5), 0)
    with pytest.raises(ValueError, match=r"^check: eager is the yardstick and has to be among the peers\.$"):
        check(problem, [peers.make_peer(problem, "losskit")])


def test_errors_are_relative_to_each_part() -> None:
    exact = torch.tensor([[-2.0, 1e-6, 1e-6]], dtype=torch.float64)
    got = torch.tensor([[-2.0, 2e-6, 1e-6]])
    target_column, other_columns = errors_by_column(got, exact, torch.tensor([0]))
    assert target_column == 0
    assert other_columns == pytest.approx(1)
    assert error_of(got, exact) == pytest.approx(5e-7)
    assert error_of(torch.ones(2), torch.zeros(2, dtype=torch.float64)) == float("inf")


# timing ---------------------------------------------------------------------------------------------------------------


def test_every_peer_is_called_equally_often_and_data_is_restored() -> None:
    calls: list[str] = []

    def peer(name: str, restored: bool) -> peers.Peer:
        restore = (lambda: calls.append(f"restore {name}")) if restored else None
        return peers.Peer(name, step=lambda: calls.append(name), restore=restore)

    timings = interleave([peer("a", False), peer("b", True)], 0.001, seed=0)
    assert timings["a"].samples == timings["b"].samples >= 7
    assert timings["a"].calls_per_sample == 1
    in_rounds = [name for name in calls[-3 * timings["a"].samples :] if not name.startswith("restore")]
    assert in_rounds.count("a") == in_rounds.count("b") == timings["a"].samples
    assert calls.count("restore b") == calls.count("b")


def test_work_of_other_processes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1.0]
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    own = SimpleNamespace(user=3.0, system=1.0)
    monkeypatch.setattr(measure, "STAT", stat)
    monkeypatch.setattr(measure, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(os, "times", lambda: own)
    # user, nice, system, idle, iowait, irq, softirq, steal, guest
    stat.write_text(f"cpu  {10 * ticks} 0 {5 * ticks} 900 70 0 0 0 0\ncpu0 1 1 1\n")
    other_work = OtherWork()
    seconds[0], own.user, own.system = 11.0, 5.0, 2.0
    stat.write_text(f"cpu  {19 * ticks} {2 * ticks} {6 * ticks} 999 80 0 0 {1 * ticks} 0\ncpu0 1 1 1\n")
    # The machine worked for 13 s, of which 3 s are this process's, in 10 s.
    assert other_work.cores() == pytest.approx(1)

    result = WorkloadResult("nll", "", other_work=other_work.cores())
    assert "    other processes kept 1.0 cores busy: these times are unreliable" in report.result_lines(result)
    last = list(report.summary_lines([result]))[-1]
    assert last == "Other processes disturbed the times of 1 of 1 workloads: run those again."
    stat.unlink()
    assert OtherWork().cores() is None


def test_disturbed_time_is_neither_reached_nor_missed() -> None:
    """A time slice lost by eager would otherwise make a target look reached, a thousand times over."""
    result = WorkloadResult("x", "", other_work=1.0)
    for name, seconds in (("losskit", 1e-5), ("eager", 1e-2)):
        result.peers[name] = PeerResult(name, timing=measure.summarise([seconds]), errors={"value": 1e-7})
    found = outcomes(result, replace(loss_workload("nll"), targets=(Target("speed_up", 4), Target("error_ratio", 1.0))))
    assert [(outcome.value, outcome.reached, outcome.disturbed) for outcome in found] == [
        (pytest.approx(1000), None, True),
        (1.0, True, False),
    ]
    result.outcomes = found
    assert [text.split()[0] for text in report.outcome_lines([result])] == ["disturbed", "reached"]
    assert "1 targets reached, 0 missed, 0 not measured, 1 disturbed" in next(report.summary_lines([result]))


def test_value_just_beside_its_limit_shows_the_difference() -> None:
    assert report.exact(Outcome(Target("error_ratio", 1.0), 1.00001)) == "1.00001x"
    assert report.exact(Outcome(Target("error_ratio", 1.0), 1.0)) == "1.000x"
    assert report.exact(Outcome(Target("speed_up", 14.0), 13.85)) == "13.85x"


def test_share_of_the_loss_holds_its_forward_and_backward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def node(forward_seconds: float, backward_seconds: float) -> Callable[..., Tensor]:
        class Node(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, input: Tensor) -> Tensor:
                clock[0] += forward_seconds
                return input * 1

            @staticmethod
            def backward(ctx: Any, *grad_outputs: Any) -> Any:
                clock[0] += backward_seconds
                return grad_outputs[0]

        return lambda input: Node.apply(input)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(peers, "perf_counter", lambda: clock[0])
    timed = peers.TimedInside(loss=node(3, 5), produce=node(100, 200))
    timed(torch.tensor(1.0, requires_grad=True), inputs=1).backward()  # type: ignore[no-untyped-call]
    assert timed.seconds == [8]


def test_full_step_reports_its_loss_share() -> None:
    result = run_workload(loss_workload("full_step"), SMALL)
    assert result.status == "measured"
    assert result.limit() == "products"
    share = result.peers["losskit"].loss_share
    assert share is not None
    assert 0 < share < 1
    assert result.peers["products"].loss_share is None


def test_peak_memory_counts_the_gradient() -> None:
    workload = loss_workload("mse_1e7_mean")
    try:
        extra = memory.in_new_process(workload, "eager", seed=0, threads=1)
    except memory.UnavailableError as error:
        pytest.skip(str(error))
    assert 0.95 < extra / (4 * 10**7) < 4


# the report -----------------------------------------------------------------------------------------------------------


def run_command(tmp_path: Path, *arguments: str) -> int:
    return command.main([*arguments, "--json", str(tmp_path / "bench.json"), "--png", str(tmp_path / "bench.png")])


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run", lambda workload, _: run(workload, SMALL))


@pytest.mark.usefixtures("small_runs")
def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert run_command(tmp_path, "cross_entropy_vocab", "cross_entropy_4x10_no_grad", "full_step") == 0
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 120
    assert "every value and gradient passed." in printed
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["bench.json", "bench.png"]

    document = json.loads((tmp_path / "bench.json").read_text())
    assert set(document) == {"schema", "machine", "settings", "workloads"}
    assert document["schema"] == 1
    assert {"cpu", "cores", "threads", "python", "torch", "losskit", "kernels", "allocator"} == set(document["machine"])
    assert "transparent_hugepage" in document["machine"]["allocator"]
    assert [entry["name"] for entry in document["workloads"]] == [
        "cross_entropy_vocab",
        "full_step",
        "cross_entropy_4x10_no_grad",
    ]
    for entry in document["workloads"]:
        assert set(entry) == {"name", "description", "status", "complaints", "peers", "outcomes", "other_work"}
        assert entry["status"] == "measured"
        for peer in entry["peers"]:
            assert set(peer) == {
                "name",
                "timing",
                "errors",
                "extra_peak",
                "loss_share",
                "dispatch",
                "notes",
                "speed_up_over_eager",
            }
            timing = peer["timing"]
            assert set(timing) == {"median", "lower_quartile", "upper_quartile", "samples", "calls_per_sample"}
            assert timing["lower_quartile"] <= timing["median"] <= timing["upper_quartile"]
        for outcome in entry["outcomes"]:
            assert set(outcome) == {"figure", "limit", "peer", "than", "at_least", "value", "reached", "disturbed"}


def test_figures_without_end_become_null() -> None:
    result = WorkloadResult("x", "")
    result.outcomes = [Outcome(Target("error_ratio", 1.0), float("inf"))]
    (entry,) = json.loads(report.as_json([result], {}, {}))["workloads"]
    assert entry["outcomes"][0]["value"] is None
    assert entry["outcomes"][0]["reached"] is False


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (Target("speed_up", 14), 14.0, True),
        (Target("speed_up", 14), 13.9, False),
        (Target("time_ratio", 0.85), 0.86, False),
        (Target("time_ratio", 0.85), 0.85, True),
        (Target("peak_memory", 1.1), None, None),
        (Target("error_ratio", 1.0), float("inf"), False),
        (Target("value_error_gain", 1e4), float("inf"), True),
    ],
)
def test_targets(target: Target, value: float | None, reached: bool | None) -> None:
    assert Outcome(target, value).reached is reached


def outcome_of(status: str, value: float) -> WorkloadResult:
    result = WorkloadResult("nll", "", status=status)  # type: ignore[arg-type]
    result.peers["losskit"] = PeerResult("losskit")
    result.outcomes = [Outcome(Target("speed_up", 14), value)]
    return result


@pytest.mark.parametrize(("status", "code"), [("measured", 0), ("wrong", 1), ("failed", 1)])
def test_exit_status_is_about_values_not_targets(
    status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run", lambda *_: outcome_of(status, 2.0))
    assert run_command(tmp_path, "nll") == code
    printed = capsys.readouterr().out
    assert "MISSED       nll" in printed
    assert "0 targets reached, 1 missed" in printed


def test_interrupted_run_reports_what_it_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[str] = []

    def interrupted(workload: Workload, _: Settings) -> WorkloadResult:
        if finished:
            raise KeyboardInterrupt
        finished.append(workload.name)
        return outcome_of("measured", 20.0)

    monkeypatch.setattr(command, "run", interrupted)
    assert run_command(tmp_path) == 130
    assert len(json.loads((tmp_path / "bench.json").read_text())["workloads"]) == 1


def test_build_that_fails_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "  | ConfigurationError: no README.md\n  note: from a subprocess\n\nhint: See above.\n"

    def fail(_: int) -> list[float]:
        raise subprocess.CalledProcessError(1, ["pip"], stderr=printed)

    monkeypatch.setitem(measure.PACKAGE_TIMES, "build", fail)
    result = run(BY_NAME["build"], SMALL)
    assert (result.status, result.complaints) == ("failed", ["ConfigurationError: no README.md"])
    assert list(report.result_lines(result)) == ["build", "    FAILED: ConfigurationError: no README.md"]


# the command ----------------------------------------------------------------------------------------------------------


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["cross_entropy_vocabulary"]) == 2
    names = ", ".join(workload.name for workload in WORKLOADS)
    expected = f"benchmarks: no workload is called 'cross_entropy_vocabulary'; there are: {names}.\n"
    assert capsys.readouterr().err == expected


def test_pattern_without_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "no_such_workload*"]) == 2
    assert capsys.readouterr().err.startswith(
        "benchmarks: no workload matches 'no_such_workload*'; there are: cross_entropy_vocab,"
    )
    assert command.main(["nll", "--only", "bce_*"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: no workload of nll matches 'bce_*'; there are:")


def test_unwritable_report_is_refused_before_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "bench.json"
    assert command.main(["nll", "--json", str(path), "--png", str(tmp_path / "bench.png")]) == 2
    assert capsys.readouterr().err == f"benchmarks: the folder of {path} cannot be made: File exists.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "argument --seconds: expected a positive number, got 0"),
        (["--threads", "-1"], "argument --threads: expected a positive integer, got -1"),
    ],
)
def test_bad_option(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_list_and_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--only", "bce_1e*"]) == 0
    names = [text.split()[0] for text in capsys.readouterr().out.splitlines()]
    assert names == ["bce_1e7_mean", "bce_1e7_none", "bce_1e5_mean", "bce_1e3_mean"]
