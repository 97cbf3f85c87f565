"""Trainings on several ranks, started with torchrun's module on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from losskit.errors import LosskitValueError
from losskit.train import TrainOptions, data, train
from losskit.train.criterion import criterion
from losskit.train.loop import Training
from losskit.train.network import classifier, language_model
from losskit.train.options import IMAGE_LOSSES
from losskit.train.ranks import AnotherRankError, Ranks
from losskit.train.task import of_images
from train.small_data import few_images, learn_small_text

HERE = Path(__file__).parent

# Of 52 images the last batch of 17 has one, so that two of three ranks get none.
FAKE = {"data": "fake", "batch_size": 17, "epochs": 2}
TRAININGS: dict[str, dict[str, Any]] = {
    "fake": {**FAKE, "class_weights": "balanced", "label_smoothing": 0.1},
    "bce": {**FAKE, "loss": "bce_with_logits", "optimizer": "adam"},
    "text": {"data": "text", "batch_size": 50, "epochs": 1},
}


def start(ranks: int, folder: Path, **request: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*command, str(HERE / "rank.py"), json.dumps(request)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    try:
        return process.communicate(timeout=120)
    finally:
        process.kill()


def sentences(stderr: str) -> list[str]:
    return re.findall(r"^losskit: .*$", stderr, re.MULTILINE)


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
def test_three_ranks_train_like_one(tmp_path: Path) -> None:
    trainings = [{**options, "out": name} for name, options in TRAININGS.items()]
    with start(3, tmp_path, float64=True, few_images=True, trainings=trainings) as process:
        _, stderr = finish(process)
        assert process.returncode == 0, stderr
    for name, options in TRAININGS.items():
        with learn_small_text(), few_images():
            alone = train(TrainOptions(**options, out=tmp_path / f"{name}-alone"))
        losses = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(3)]
        torch.testing.assert_close(losses[0], alone.step_losses, rtol=1e-9, atol=0, msg=lambda m, n=name: f"{n}: {m}")
        # The same bits on every rank.
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(losses[0], losses[2])
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for row, expected in zip(rows, alone.rows, strict=True):
            for column in expected.keys() - {"seconds"}:
                assert row[column] == pytest.approx(expected[column], rel=1e-9), (name, column)
        models = [torch.load(folder / "model.pt", weights_only=True) for folder in (tmp_path / name, alone.folder)]
        for key, weights in models[1].items():
            torch.testing.assert_close(models[0][key], weights, rtol=1e-6, atol=1e-9)


COMMAND = ["train", "--data", "fake", "--batch-size", "63", "--optimizer", "adamw", "--out", "run"]


def wait_for_epochs(process: "subprocess.Popen[str]", metrics: Path, epochs: int) -> None:
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= epochs):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_rank_ends_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with start(2, tmp_path, command=[*COMMAND, "--epochs", "10000"]) as process:
        wait_for_epochs(process, tmp_path / "run" / "metrics.jsonl", 2)
        os.kill(int((tmp_path / "rank-1.pid").read_text()), signal.SIGKILL)
        stdout, stderr = finish(process)
        assert process.returncode == 1
    # torchrun tells which rank was killed; the other one tells what became of the training, whichever it notices first.
    assert "exitcode  : -9" in stderr
    (sentence,) = sentences(stderr)
    assert re.fullmatch(
        r"losskit: train: rank 0 of 2 "
        r"(cannot go on without the others \(.*\): one of them has ended or does not answer|"
        r"was told to end \(SIGTERM\), as torchrun does when another rank has ended)"
        r"; the same command goes on after the last saved epoch\.",
        sentence,
    )
    # One rank speaks, and says that there are two.
    assert stdout.count("epoch     1/10000 ") == 1
    assert "batches of 63 on 2 ranks" in stdout

    before = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    finished = len(before["rows"])
    assert 2 <= finished < 10000
    # What is there is enough for the end that an unbroken training has.
    options = {"data": "fake", "batch_size": 63, "optimizer": "adamw", "epochs": finished + 2}
    with start(2, tmp_path, trainings=[{**options, "out": "run"}, {**options, "out": "whole"}]) as process:
        _, stderr = finish(process)
        assert process.returncode == 0, stderr
    resumed, whole = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("run", "whole"))
    # What was finished was not trained again: it took as long as then, to the millisecond.
    assert resumed["rows"][:finished] == before["rows"]
    assert torch.equal(resumed["step_losses"], whole["step_losses"])
    assert all(torch.equal(resumed["network"][name], whole["network"][name]) for name in whole["network"])


def test_a_rank_that_does_not_answer_ends_all(tmp_path: Path) -> None:
    with start(2, tmp_path, command=[*COMMAND, "--epochs", "10000"], timeout=3) as process:
        wait_for_epochs(process, tmp_path / "run" / "metrics.jsonl", 1)
        stopped = int((tmp_path / "rank-1.pid").read_text())
        os.kill(stopped, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        first = int((tmp_path / "rank-0.pid").read_text())
        while Path(f"/proc/{first}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # torchrun tells the stopped one to end, which it can do only when it runs.
        os.kill(stopped, signal.SIGCONT)
        _, stderr = finish(process)
        assert process.returncode == 1
    assert any(
        re.fullmatch(
            r"losskit: train: rank 0 of 2 cannot go on without the others \(.*Timed out.*\): one of them has ended or "
            r"does not answer; the same command goes on after the last saved epoch\.",
            sentence,
        )
        for sentence in sentences(stderr)
    ), stderr


def test_what_all_ranks_meet_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with start(2, tmp_path, command=["train", "--data", "fake", "--out", "file/below"]) as process:
        stdout, stderr = finish(process)
        assert process.returncode == 1
    assert stdout == ""
    assert sentences(stderr) == [
        "losskit: train: cannot write to --out file/below (Not a directory); name a folder that can be written."
    ]


def test_parts_are_even_and_complete() -> None:
    for size in (1, 2, 3, 5):
        for rows in (0, 1, 4, 63):
            parts = [Ranks(rank, size).part(torch.arange(rows)) for rank in range(size)]
            assert torch.cat(parts).tolist() == list(range(rows))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("loss", [*IMAGE_LOSSES, "linear_cross_entropy"])
def test_the_loss_of_no_samples_is_a_connected_zero(loss: str) -> None:
    images = loss in IMAGE_LOSSES
    network = classifier(0) if images else language_model(50, 0)
    options = TrainOptions(data="fake" if images else "text", loss=loss)
    made = criterion(options, torch.arange(10), "losskit", None if images else network.head)
    inputs = torch.zeros(0, 3, 32, 32) if images else torch.zeros(0, 7, dtype=torch.long)
    targets = torch.zeros(0 if images else (0, 7), dtype=torch.long)
    value = made.mean(network(inputs), targets, normalizer=2.5)
    assert value.item() == 0
    value.backward()
    assert all(bool((weights.grad == 0).all()) for weights in network.parameters())


def test_parts_divided_by_the_whole_count_add_up(tmp_path: Path) -> None:
    """The sentence of the design in one process: the mean over ranks of sum × ranks / count is the mean of all."""
    options = TrainOptions(data="fake", class_weights="balanced")
    images = data.fake()
    training = Training(options, of_images("fake", images))
    output, targets = training.first_batch()
    whole = training.criterion.mean(output, targets)
    divisor = training.criterion.divisor(targets)
    parts = [
        training.criterion.mean(output[rows], targets[rows], normalizer=divisor / 3)
        for rows in (Ranks(rank, 3).part(torch.arange(len(targets))) for rank in range(3))
    ]
    assert (sum(parts) / 3).item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_comparison_needs_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contextlib import nullcontext

    for rank, kind in ((0, LosskitValueError), (1, AnotherRankError)):
        monkeypatch.setattr("losskit.train.session.joined", lambda device, rank=rank: nullcontext(Ranks(rank, 2)))
        with pytest.raises(kind) as caught:
            train(TrainOptions(data="fake", out=tmp_path), compare_torch=True)
        assert str(caught.value).endswith(
            "train: --compare-torch needs a single process, got 2 ranks; leave it out, or train without torchrun."
        )


def test_one_gpu_is_not_for_several_ranks() -> None:
    with pytest.raises(LosskitValueError) as caught:
        Ranks(0, 2).device("cuda:1")
    assert str(caught.value) == ("train: --device cuda:1 is one GPU for 2 ranks; --device cuda gives each its own.")
