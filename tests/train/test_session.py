"""A whole training: what it writes, that it can be stopped at any moment, and that it tells the truth."""

import itertools
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit.errors import DataError, LosskitError, LosskitRuntimeError, LosskitValueError, OutputError
from losskit.train import TrainOptions, data, output, session, train
from losskit.train.loop import Training, epoch_seed
from losskit.train.network import classifier
from losskit.train.options import IMAGE_LOSSES, OPTIMIZERS
from losskit.train.progress import Silent
from losskit.train.task import of_images

STEPS_PER_EPOCH = 4


def fake(out: Path, **options: Any) -> TrainOptions:
    return TrainOptions(data="fake", out=out, **options)


class StopAfter(Silent):
    """Presses Ctrl-C in the middle of a step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, loss: float) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def without_seconds(rows: list[output.Row]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def refusal(kind: type[LosskitError], options: TrainOptions) -> str:
    with pytest.raises(kind) as caught:
        train(options)
    return str(caught.value)


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_files(loss: str, tmp_path: Path) -> None:
    result = train(fake(tmp_path / "new" / "folder", loss=loss, epochs=2))
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "curve.png", "metrics.jsonl", "model.pt"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.rows
    assert [row["epoch"] for row in rows] == [1, 2]
    assert len(result.step_losses) == 2 * STEPS_PER_EPOCH

    # The figures are those of the network in model.pt, computed another way: at once, with torch, in float64.
    network = classifier(99)
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    images = data.fake()
    with torch.no_grad():
        logits = network(data.to_input(images.test_images, torch.device("cpu"))).double()
    one_hot = F.one_hot(images.test_labels, 10).double()
    expected = {
        "cross_entropy": F.cross_entropy(logits, images.test_labels),
        "nll_loss": F.cross_entropy(logits, images.test_labels),
        "bce_with_logits": F.binary_cross_entropy_with_logits(logits, one_hot),
        "mse": F.mse_loss(logits, one_hot),
    }[loss]
    assert rows[-1]["test_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert rows[-1]["test_accuracy"] == (logits.argmax(dim=1) == images.test_labels).double().mean().item()
    assert rows[-1]["train_loss"] == pytest.approx(result.step_losses[STEPS_PER_EPOCH:].mean().item(), rel=1e-12)


def test_test_loss_divides_the_sum_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 test images in batches of 60 and 4: a mean of means would weigh the four fifteen times too much."""
    whole = train(fake(tmp_path / "whole", epochs=1)).rows[0]["test_loss"]
    monkeypatch.setattr("losskit.train.loop.TEST_BATCH_SIZE", 60)
    assert train(fake(tmp_path / "parts", epochs=1)).rows[0]["test_loss"] == pytest.approx(whole, rel=1e-6)


def test_nll_loss_is_cross_entropy(tmp_path: Path) -> None:
    first = train(fake(tmp_path / "a", loss="cross_entropy", epochs=1)).step_losses
    second = train(fake(tmp_path / "b", loss="nll_loss", epochs=1)).step_losses
    torch.testing.assert_close(first, second, rtol=1e-5, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stop", [2 * STEPS_PER_EPOCH + 2, 3 * STEPS_PER_EPOCH])
def test_resume_is_exact(optimizer: str, stop: int, tmp_path: Path) -> None:
    options = fake(tmp_path / "broken", optimizer=optimizer, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        train(options, StopAfter(stop))
    assert len((tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()) == 2
    # Nothing but the seed and the checkpoint decides how it goes on.
    torch.manual_seed(stop)
    resumed = train(options)
    whole = train(fake(tmp_path / "whole", optimizer=optimizer, epochs=4))
    assert torch.equal(resumed.step_losses, whole.step_losses)
    assert without_seconds(resumed.rows) == without_seconds(whole.rows)
    models = [torch.load(result.folder / "model.pt", weights_only=True) for result in (resumed, whole)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def test_epochs_can_be_raised(tmp_path: Path) -> None:
    train(fake(tmp_path / "raised", epochs=1))
    raised = train(fake(tmp_path / "raised", epochs=3))
    whole = train(fake(tmp_path / "whole", epochs=3))
    assert torch.equal(raised.step_losses, whole.step_losses)
    assert without_seconds(raised.rows) == without_seconds(whole.rows)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = train(fake(tmp_path, epochs=1))
    (tmp_path / "model.pt").unlink()
    (tmp_path / "curve.png").unlink()
    # A first step would stop it.
    again = train(fake(tmp_path, epochs=1), StopAfter(1))
    assert again.rows == first.rows
    assert (tmp_path / "model.pt").exists()
    assert (tmp_path / "curve.png").exists()


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    runs = [train(fake(tmp_path / str(index), epochs=1, seed=seed)).step_losses for index, seed in enumerate((3, 3, 4))]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_every_epoch_has_an_order_of_its_own() -> None:
    images = data.fake()
    training = Training(TrainOptions(data="fake"), of_images("fake", images))
    orders = [torch.cat(list(training._shuffled(epoch))).tolist() for epoch in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(images.train_labels)))
    assert len({epoch_seed(seed, epoch) for seed in range(3) for epoch in range(50)}) == 150


def test_what_runs_is_told(tmp_path: Path) -> None:
    seen = Lines()
    train(fake(tmp_path, epochs=1, label_smoothing=0.1, class_weights="balanced"), seen)
    backend = losskit.explain_dispatch(losskit.CrossEntropyLoss(), torch.zeros(64, 10), torch.zeros(64).long()).backend
    assert seen.lines[:2] == [
        "fake: 256 training and 64 test images of 3x32x32, 10 classes",
        f"losskit.CrossEntropyLoss on backend {backend}, label smoothing 0.1, balanced class weights, sgd with "
        "learning rate 0.01, batches of 64, seed 0, cpu, threads: 1",
    ]


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(fake(tmp_path, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_other_options_do_not_resume(tmp_path: Path) -> None:
    train(fake(tmp_path, epochs=1))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert refusal(LosskitValueError, fake(tmp_path, epochs=1, seed=7, lr=0.02, class_weights="balanced")) == (
        f"train: {tmp_path} holds a training with other options: --class-weights (unset there, balanced now), "
        "--lr (0.01 there, 0.02 now), --seed (0 there, 7 now); give the same options to resume it, "
        "name another --out, or pass --overwrite to start anew."
    )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_fewer_epochs_than_finished(tmp_path: Path) -> None:
    train(fake(tmp_path, epochs=2))
    assert refusal(LosskitValueError, fake(tmp_path, epochs=1)) == (
        f"train: {tmp_path} holds 2 finished epochs, --epochs is 1; pass --epochs 2 or more, name another --out, "
        "or pass --overwrite to start anew."
    )


def test_overwrite_starts_anew(tmp_path: Path) -> None:
    train(fake(tmp_path, epochs=2))
    result = train(fake(tmp_path, epochs=1, seed=5, overwrite=True))
    assert [row["epoch"] for row in result.rows] == [1]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    assert torch.equal(result.step_losses, train(fake(tmp_path / "clean", epochs=1, seed=5)).step_losses)


def test_overwrite_keeps_the_old_files_until_an_epoch_is_finished(tmp_path: Path) -> None:
    train(fake(tmp_path, epochs=2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        train(fake(tmp_path, epochs=2, seed=5, overwrite=True), StopAfter(3))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_files_of_something_else_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weeks of work")
    assert refusal(OutputError, fake(tmp_path, epochs=1)) == (
        f"train: --out {tmp_path} holds model.pt but no checkpoint.pt, so it is no training to resume; "
        "name another folder, or pass --overwrite to replace the files."
    )
    assert (tmp_path / "model.pt").read_bytes() == b"weeks of work"


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data was read before the folder was checked"))
    assert refusal(OutputError, fake(tmp_path / "file" / "below")) == (
        f"train: cannot write to --out {tmp_path}/file/below (Not a directory); name a folder that can be written."
    )
    assert refusal(OutputError, fake(tmp_path / "file")) == (
        f"train: cannot write to --out {tmp_path}/file (File exists); name a folder that can be written."
    )


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(fake(tmp_path, epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    syncs = itertools.count()

    def full(descriptor: int) -> None:
        # The first file is the probe: the disk fills up later.
        if next(syncs):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(OutputError, fake(tmp_path, epochs=2)) == (
        f"train: cannot write to --out {tmp_path} (No space left on device); name a folder that can be written."
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".model.pt.123.partial").write_bytes(b"half")
    train(fake(tmp_path, epochs=1))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_truncated_checkpoint(keep: float, tmp_path: Path) -> None:
    train(fake(tmp_path, epochs=1))
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()[: int(keep * path.stat().st_size)]
    path.write_bytes(content)
    message = refusal(DataError, fake(tmp_path, epochs=2))
    assert message.startswith(f"train: {path} cannot be read as a checkpoint (")
    assert message.endswith("); it is damaged: name another --out, or pass --overwrite to start anew.")
    assert path.read_bytes() == content


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pt")
    assert refusal(DataError, fake(tmp_path, epochs=2)) == (
        f"train: {tmp_path / 'checkpoint.pt'} is no checkpoint of this version of losskit train; "
        "name another --out, or pass --overwrite to start anew."
    )


class _Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_cannot_run_a_command(tmp_path: Path) -> None:
    torch.save({"format": output.FORMAT, "options": _Command(tmp_path / "executed")}, tmp_path / "checkpoint.pt")
    refusal(DataError, fake(tmp_path, epochs=2))
    assert not (tmp_path / "executed").exists()
    with pytest.raises((pickle.UnpicklingError, KeyError, FileExistsError)):
        # The file is a real attack: read without weights_only it makes the folder, and only then has no content.
        torch.load(tmp_path / "checkpoint.pt", weights_only=False)["network"]
    assert (tmp_path / "executed").is_dir()


def test_divergence_is_told(tmp_path: Path) -> None:
    with pytest.raises(LosskitRuntimeError) as caught:
        train(fake(tmp_path, epochs=9, lr=1e6, loss="mse"))
    message = str(caught.value)
    assert message.startswith("train: the loss of step ")
    assert message.endswith(": the training has diverged; use a smaller --lr than 1000000.0.")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_device_that_is_not_there(device: str, tmp_path: Path) -> None:
    message = refusal(LosskitValueError, fake(tmp_path / "out", device=device))
    assert message.startswith(f"train: --device {device} cannot be used (")
    assert message.endswith("); --device cpu can.")
    assert not (tmp_path / "out").exists()


def test_a_changed_environment_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(fake(tmp_path, epochs=1))
    monkeypatch.setattr(
        session, "_environment", lambda ranks: {"losskit": "9.9", "torch": torch.__version__, "threads": 3}
    )
    seen = Lines()
    train(fake(tmp_path, epochs=2), seen)
    assert "resuming after epoch 1 of 2" in seen.lines
    (note,) = (line for line in seen.lines if line.startswith("note: "))
    assert note.endswith(
        "9.9 now, threads 1 then, 3 now: the losses can differ in the last digits from an unbroken training"
    )
