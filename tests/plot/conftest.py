"""Figures that need no window, look the same everywhere, and are closed when a test ends."""

from collections.abc import Iterator

import matplotlib
import pytest


@pytest.fixture(autouse=True)
def _plain_matplotlib() -> Iterator[None]:
    from matplotlib import pyplot

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        pyplot.switch_backend("Agg")
        yield
    pyplot.close("all")
