"""The text: its tokens, what is held out, and the loss of their frequencies."""

import math
import sys
from collections import Counter

import pytest
import torch

from losskit.errors import DataError
from losskit.train.task import of_text
from losskit.train.text import END, IGNORED, LENGTH, UNKNOWN, TextData, perplexity, read_topics, split, tokens
from train.small_data import small_text


@pytest.fixture(scope="module")
def text() -> TextData:
    return read_topics()


def test_tokens_are_words_and_signs() -> None:
    assert tokens({"if": "The if-statement:\n    x == 'é' ...\n\n+----+"}) == [
        "The", "if", "-", "statement", ":", "x", "==", "'", "é", "'", "...", END, "+", "----", "+", END
    ]  # fmt: skip


def test_a_paragraph_is_kept_where_it_stands_first() -> None:
    topics = {"b": "one two\n\nthree", "a": "zero\n \none\n   two", "c": ""}
    assert tokens(topics) == ["zero", END, "one", "two", END, "three", END]


def test_the_reference_of_this_python(text: TextData) -> None:
    train, test = (int((part != IGNORED).sum()) for part in (text.train_targets, text.test_targets))
    assert train > 50_000
    assert 0.05 < test / (train + test) <= 0.1
    # Large enough for the last layer to matter.
    assert 2_000 < len(text.vocabulary) < 20_000
    assert text.vocabulary[0] == UNKNOWN
    assert {"statement", "exception", "==", END} <= set(text.vocabulary)
    assert len(set(text.vocabulary)) == len(text.vocabulary)


def words(numbers: torch.Tensor, text: TextData) -> list[str]:
    return [text.vocabulary[number] for number in numbers.tolist()]


def test_every_token_is_predicted_once_from_those_before_it(text: TextData) -> None:
    from pydoc_data.topics import topics

    for inputs, targets in ((text.train_inputs, text.train_targets), (text.test_inputs, text.test_targets)):
        assert inputs.shape == targets.shape == (len(inputs), LENGTH)
        assert torch.equal(inputs[:, 1:][targets[:, 1:] != IGNORED], targets[:, :-1][targets[:, 1:] != IGNORED])
    whole = tokens(topics)
    sequences = -(-(len(whole) - 1) // LENGTH)
    held_out = [sequence // 32 % 10 == 9 for sequence in range(sequences)]
    inputs, targets = iter(text.train_inputs), iter(text.train_targets)
    test_inputs, test_targets = iter(text.test_inputs), iter(text.test_targets)
    known = set(text.vocabulary)
    for sequence, held in enumerate(held_out):
        here, following = (next(test_inputs), next(test_targets)) if held else (next(inputs), next(targets))
        expected = whole[sequence * LENGTH : (sequence + 1) * LENGTH + 1]
        expected = [word if word in known else UNKNOWN for word in expected]
        counts = following != IGNORED
        assert words(following[counts], text) == expected[1:]
        assert words(here[counts], text) == expected[:-1]


def test_the_vocabulary_knows_nothing_of_the_test(text: TextData) -> None:
    counts = Counter(text.train_targets[text.train_targets != IGNORED].tolist())
    # Every word but the unknown one stands at least twice in the training part.
    assert min(counts[number] for number in range(1, len(text.vocabulary))) == 2
    # The unknown one is for those that stand there once.
    assert counts[0] > 100


def test_unigram_loss(text: TextData) -> None:
    train = text.train_targets[text.train_targets != IGNORED].tolist()
    test = text.test_targets[text.test_targets != IGNORED].tolist()
    counts = Counter(train)
    expected = -math.fsum(math.log(counts[token] / len(train)) for token in test) / len(test)
    assert text.unigram_loss == pytest.approx(expected, rel=1e-12)
    assert 0 < text.unigram_loss < math.log(len(text.vocabulary))


def test_perplexity_of_equal_probabilities_is_their_number() -> None:
    assert perplexity(math.log(1000)) == pytest.approx(1000)
    assert perplexity(1e4) == math.inf


def test_another_text_has_another_digest(text: TextData) -> None:
    assert read_topics().digest == text.digest != small_text().digest


def test_a_text_that_is_too_short() -> None:
    with pytest.raises(DataError) as caught:
        split(["word"] * 10_240)
    assert str(caught.value) == "text: 10240 tokens are too few; 10241 are the least."
    assert len(split(["word"] * 10_241).test_inputs) == 32


def test_a_python_without_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError) as caught:
        read_topics()
    assert str(caught.value) == (
        "text: this Python lacks pydoc_data.topics, a module of the standard library; install the whole standard "
        "library."
    )


def test_what_is_told_of_the_text() -> None:
    text = small_text()
    train = int((text.train_targets != IGNORED).sum())
    counted = text.test_targets[text.test_targets != IGNORED]
    unknown = 100 * (counted == 0).double().mean().item()
    assert of_text(text).summary == (
        f"text: {train} training and {len(counted)} test tokens of Python's language reference, "
        f"{len(text.vocabulary)} different ones; {unknown:.1f} % of the test tokens are none of them",
        f"what their frequencies alone tell (unigram): test loss {text.unigram_loss:.4f} nats per token, perplexity "
        f"{math.exp(text.unigram_loss):.1f}",
    )
