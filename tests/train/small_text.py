"""A text that is learnt in a second: the beginning of the real one."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from losskit.train.text import TextData, split, tokens


def small_text() -> TextData:
    from pydoc_data.topics import topics

    return split(tokens(topics)[:11_000])


@contextmanager
def learn_small_text() -> Iterator[None]:
    """Within it, `--data text` is the small text."""
    with mock.patch("losskit.train.task.read_topics", small_text):
        yield
