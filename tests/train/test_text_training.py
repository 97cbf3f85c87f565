"""A training on text: it learns, its figures are true, and it can be stopped like any other."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit.errors import DataError
from losskit.train import Result, TrainOptions, text, train
from losskit.train.criterion import criterion
from losskit.train.network import language_model
from losskit.train.options import TEXT_LOSSES
from losskit.train.progress import Silent
from losskit.train.text import IGNORED
from train.small_data import learn_small_text, small_text


@pytest.fixture
def _small() -> Iterator[None]:
    with learn_small_text():
        yield


@pytest.fixture
def _float64() -> Iterator[None]:
    """Where nothing but a wrong number is further than rounding from the right one."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def options(out: Path, **others: Any) -> TrainOptions:
    return TrainOptions(data="text", out=out, **others)


def without_seconds(result: Result) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.rows]


class Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


class StopAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, loss: float) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


def test_it_learns_the_real_text(tmp_path: Path) -> None:
    """Two of the twelve epochs of the defaults go well below what the frequencies of the words tell."""
    result = train(options(tmp_path, epochs=2))
    unigram = text.read_topics().unigram_loss
    assert result.step_losses[0].item() == pytest.approx(math.log(len(text.read_topics().vocabulary)), abs=0.1)
    assert result.rows[1]["test_loss"] < unigram - 0.3
    assert result.rows[1]["train_loss"] < result.rows[0]["train_loss"] - 0.5


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("loss", TEXT_LOSSES)
def test_files(loss: str, tmp_path: Path) -> None:
    seen = Lines()
    result = train(options(tmp_path, loss=loss, epochs=2, label_smoothing=0.1), seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.pt", "curve.png", "metrics.jsonl", "model.pt", "vocabulary.txt"
    ]  # fmt: skip
    data = small_text()
    assert (tmp_path / "vocabulary.txt").read_text().splitlines() == list(data.vocabulary)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.rows
    assert list(rows[-1]) == ["epoch", "train_loss", "test_loss", "test_perplexity", "seconds"]

    # The figures are those of the network in model.pt, computed another way: with torch, in float64, unsmoothed.
    network = language_model(len(data.vocabulary), 99)
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    network.double()
    with torch.no_grad():
        logits = network.head(network(data.test_inputs)).flatten(0, 1)
    expected = F.cross_entropy(logits, data.test_targets.flatten()).item()
    assert rows[-1]["test_loss"] == pytest.approx(expected, rel=1e-5)
    assert rows[-1]["test_perplexity"] == pytest.approx(math.exp(rows[-1]["test_loss"]), rel=1e-12)
    assert (
        f"done: test loss {rows[-1]['test_loss']:.4f} nats per token, perplexity {rows[-1]['test_perplexity']:.1f} "
        f"(unigram: {data.unigram_loss:.4f}, {math.exp(data.unigram_loss):.1f})"
    ) in seen.lines
    assert f"vocabulary: {tmp_path}/vocabulary.txt" in seen.lines
    # The picture of its metrics knows what a guess costs.
    baseline = losskit.plot.history(tmp_path).lines[2]
    assert baseline.get_ydata()[0] == pytest.approx(math.log(len(data.vocabulary)))


@pytest.mark.usefixtures("_small", "_float64")
def test_both_losses_are_the_same_number(tmp_path: Path) -> None:
    """The head in the loss or before it."""
    first, second = (train(options(tmp_path / loss, loss=loss, epochs=2)) for loss in TEXT_LOSSES)
    torch.testing.assert_close(first.step_losses, second.step_losses, rtol=1e-9, atol=0)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("loss", TEXT_LOSSES)
def test_the_same_training_with_torch(loss: str, tmp_path: Path) -> None:
    seen = Lines()
    comparison = train(options(tmp_path, loss=loss, epochs=1), seen, compare_torch=True).comparison
    assert comparison is not None
    assert comparison.same
    assert seen.lines[-1] == "  the same within rounding"


@pytest.mark.usefixtures("_small")
def test_resume_is_exact(tmp_path: Path) -> None:
    steps = -(-len(small_text().train_inputs) // 64)
    with pytest.raises(KeyboardInterrupt):
        train(options(tmp_path / "broken", epochs=3), StopAfter(steps + 2))
    assert len((tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()) == 1
    torch.manual_seed(9)
    resumed, whole = (train(options(tmp_path / name, epochs=3)) for name in ("broken", "whole"))
    assert torch.equal(resumed.step_losses, whole.step_losses)
    assert without_seconds(resumed) == without_seconds(whole)


def test_another_text_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("losskit.train.output.platform.python_version", lambda: "3.99.1")
    with learn_small_text():
        train(options(tmp_path, epochs=1))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(DataError) as caught:
        train(options(tmp_path, epochs=2))
    assert str(caught.value) == (
        f"train: {tmp_path} holds a training on the text of another Python than 3.99.1; resume it with that one, name "
        "another --out, or pass --overwrite to start anew."
    )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_the_train_loss_is_the_mean_over_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last sequence is not full: its padding counts nowhere."""
    data = small_text()
    train_targets = data.train_targets.clone()
    train_targets[-1, 5:] = IGNORED
    monkeypatch.setattr("losskit.train.task.read_topics", lambda: data._replace(train_targets=train_targets))
    # So small a step that the losses are those of the untrained network.
    result = train(options(tmp_path, epochs=1, lr=1e-12, batch_size=100))
    network = language_model(len(data.vocabulary), 0)
    with torch.no_grad():
        logits = network.head(network(data.train_inputs)).flatten(0, 1).double()
    expected = F.cross_entropy(logits, train_targets.flatten())
    assert result.rows[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("library", ["losskit", "torch.nn"])
@pytest.mark.parametrize("loss", TEXT_LOSSES)
def test_criterion(loss: str, library: Any) -> None:
    network = language_model(50, 3)
    hidden = torch.randn(4, 6, network.head.in_features, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (4, 6), generator=torch.Generator().manual_seed(1))
    tokens[3, 2:] = IGNORED
    made = criterion(TrainOptions(data="text", loss=loss, label_smoothing=0.2), tokens, library, network.head)
    scores = network.head(hidden).double().flatten(0, 1)
    expected = F.cross_entropy(scores, tokens.flatten(), label_smoothing=0.2)
    assert made.mean(hidden, tokens).item() == pytest.approx(expected.item(), rel=1e-5)
    # Tested without smoothing.
    plain = F.cross_entropy(scores, tokens.flatten(), reduction="sum")
    assert made.sum(hidden, tokens).item() == pytest.approx(plain.item(), rel=1e-5)
    assert made.divisor(tokens) == 20


def test_the_embedding_is_the_head() -> None:
    network = language_model(50, 3)
    assert network.head.weight is network.embedding.weight
    assert torch.equal(network.head.weight, language_model(50, 3).head.weight)
    assert not list(network.buffers())


def test_the_network_does_not_see_what_comes() -> None:
    network = language_model(50, 3)
    tokens = torch.arange(20).view(2, 10)
    changed = tokens.clone()
    changed[:, 6:] += 20
    before, after = network(tokens), network(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6], after[:, 6])
