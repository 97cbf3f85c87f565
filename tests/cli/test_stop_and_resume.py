"""A real process is killed in the middle of a training; what it left is enough to end as if nothing had happened."""

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from losskit.cli import main
from losskit.train import TrainOptions, train

Start = Callable[..., "subprocess.Popen[str]"]

TRAIN = ["train", "--data", "fake", "--optimizer", "adamw", "--out", "run"]


def stop_after_epochs(process: "subprocess.Popen[str]", metrics: Path, epochs: int, how: signal.Signals) -> None:
    """Send `how` to the process as soon as this many epochs are on the disk."""
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= epochs):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)


def assert_resumes_exactly(finished: int) -> None:
    options = TrainOptions(data="fake", optimizer="adamw", epochs=finished + 2, out=Path("run"))
    resumed = train(options)
    whole = train(TrainOptions(data="fake", optimizer="adamw", epochs=finished + 2, out=Path("whole")))
    assert torch.equal(resumed.step_losses, whole.step_losses)
    for name in ("train_loss", "test_loss", "test_accuracy"):
        assert [row[name] for row in resumed.rows] == [row[name] for row in whole.rows]
    models = [torch.load(result.folder / "model.pt", weights_only=True) for result in (resumed, whole)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def finished_epochs() -> int:
    """What the files say, all of them: metrics.jsonl never runs ahead of the checkpoint."""
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    checkpoint = torch.load("run/checkpoint.pt", weights_only=True)
    assert checkpoint["rows"][: len(rows)] == rows
    assert len(checkpoint["rows"]) - len(rows) in (0, 1)
    return len(checkpoint["rows"])


def test_killed(start: Start) -> None:
    with start(*TRAIN, "--epochs", "10000") as process:
        stop_after_epochs(process, Path("run/metrics.jsonl"), 2, signal.SIGKILL)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
    finished = finished_epochs()
    assert 2 <= finished < 10000
    assert_resumes_exactly(finished)


def test_interrupted(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    with start(*TRAIN, "--epochs", "10000") as process:
        stop_after_epochs(process, Path("run/metrics.jsonl"), 3, signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 130
    finished = finished_epochs()
    command = "losskit train --data fake --lr 0.001 --optimizer adamw --epochs 10000 --out run"
    assert stderr in [
        f"losskit: stopped; {saved} of 10000 epochs are saved. Resume with: {command}\n"
        # An interrupt between the file and the note of it leaves one epoch more on the disk than is told.
        for saved in (finished, finished - 1)
    ]
    # The command that was printed is accepted, up to the number of epochs, which would take too long here.
    words = shlex.split(command)[1:]
    words[words.index("10000")] = str(finished)
    assert main(words) == 0
    assert f"resuming after epoch {finished} of {finished}\n" in capsys.readouterr().out
    assert_resumes_exactly(finished)


def test_interrupted_before_the_first_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("losskit.train.data.load", interrupt)
    assert main([*TRAIN, "--epochs", "3"]) == 130
    assert capsys.readouterr().err == (
        "losskit: stopped before the first epoch was finished; the same command starts the training again.\n"
    )
