"""What a training tells its caller while it runs."""

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    def start(self, title: str, steps: int, done: int) -> None:
        """`steps` steps begin, of which `done` were done earlier."""

    def step(self, loss: float) -> None:
        """A step is done, and this was its loss."""

    def stop(self) -> None:
        """The steps that `start` announced are over."""

    def epoch_saved(self, epoch: int) -> None:
        """This epoch is on the disk: a training that ends now can be resumed after it."""

    def line(self, text: str) -> None:
        """A line to read."""


class Silent:
    """Tells nothing."""

    def start(self, title: str, steps: int, done: int) -> None: ...

    def step(self, loss: float) -> None: ...

    def stop(self) -> None: ...

    def epoch_saved(self, epoch: int) -> None: ...

    def line(self, text: str) -> None: ...
