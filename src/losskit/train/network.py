"""The networks: the classifier that the tutorials build up to, and a small language model.

Neither has buffers, such as the running means of a batch norm: on several ranks those would differ, and a training
would no longer be the one of a single process.
"""

import torch
from torch import Tensor, nn

__all__ = ["NUM_CLASSES", "LanguageModel", "classifier", "language_model"]

NUM_CLASSES = 10
# Of an embedding, and of the state between two tokens.
WIDTH = 96


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


def language_model(vocabulary: int, seed: int) -> "LanguageModel":
    """A language model whose weights depend on `seed` alone; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LanguageModel(vocabulary)


class LanguageModel(nn.Module):
    """An embedding, a GRU and a linear layer: tokens `(N, T)` to what the head takes, `(N, T, WIDTH)`.

    The head, whose scores are the logits of the next token, is left to the loss, which can do without holding them. Its
    weight is that of the embedding, so that a word is learnt from where it stands and from what it follows.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)
        self.head.weight = self.embedding.weight
        # The logits begin near 0: an untrained model finds every token about as likely.
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        # To a variance of about 1, of which the GRU takes notice.
        states, _ = self.recurrent(self.embedding(tokens) * 50)
        hidden: Tensor = self.output(states)
        return hidden
