"""The classifier that the tutorials build up to."""

import torch
from torch import nn

__all__ = ["NUM_CLASSES", "classifier"]

NUM_CLASSES = 10


def classifier(seed: int) -> nn.Sequential:
    """Three convolutions with pooling and two linear layers: images `(N, 3, 32, 32)` to logits `(N, 10)`.

    The weights depend on `seed` alone, and torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.MaxPool2d(2),  # (N, 32, 16, 16)
            nn.Conv2d(32, 32, 5, padding=2),
            nn.MaxPool2d(2),  # (N, 32, 8, 8)
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),  # (N, 64, 4, 4)
            nn.Flatten(),
            nn.Linear(1024, 64),
            nn.Linear(64, NUM_CLASSES),
        )
