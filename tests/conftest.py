"""Tests that do not depend on chance: the same random numbers, and the same examples, in each run."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("losskit", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("losskit")


def pytest_configure(config: pytest.Config) -> None:
    # Torch's forward-mode AD scripts its decompositions, and warns of itself.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # Threads that wait for each other make small tensors slow on a busy machine; what they change has tests of its own.
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
