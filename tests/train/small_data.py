"""Data that are learnt in a second: the beginning of the real text, and few random images."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from losskit.train import data
from losskit.train.text import TextData, split, tokens


def small_text() -> TextData:
    from pydoc_data.topics import topics

    return split(tokens(topics)[:11_000])


@contextmanager
def learn_small_text() -> Iterator[None]:
    """Within it, `--data text` is the small text."""
    with mock.patch("losskit.train.task.read_topics", small_text):
        yield


@contextmanager
def few_images() -> Iterator[None]:
    """Within it, `--data fake` has 52 training and 14 test images."""
    images = data.fake(52, 14)
    with mock.patch("losskit.train.data.fake", return_value=images):
        yield
